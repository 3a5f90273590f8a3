package images

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// From linux/ioprio.h: the class of who gets the disk when nobody else wants it.
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13
	lowestNice       = 19
)

// atLowestPriority runs do where everything else comes first, on a thread of its
// own: priorities are a thread's, and this one ends with do. A kernel that refuses
// one of them costs speed, nothing else.
func atLowestPriority(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), lowestNice)
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(unix.Gettid()), ioprioIdle)
		do()
	}()
	<-done
}

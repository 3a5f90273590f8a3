package images

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// From linux/ioprio.h: the class of processes that get the disk when no other wants it.
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13
	lowestNice       = 19
)

// atLowestPriority runs do on a thread of its own, which yields the CPU and the disk to
// everything else. Priorities belong to a thread, and this one ends with do. If the kernel
// refuses one, that costs others speed and nothing else.
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

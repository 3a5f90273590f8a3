package upstream

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// umask is what brink makes files with, and with it containerd and the kubelet what
// containers see of theirs: /, /etc/hosts, the directories of volumes. A stricter
// one of whoever starts brink shuts the containers' users out. Secrets have modes
// of their own.
const umask = 0o022

// dropInherited gives up what a process has from whoever started it and passes on
// to what it starts, so that a node started by hand, by cron or by a unit of
// somebody's is the same node.
func dropInherited() {
	syscall.Umask(umask)
	raiseOpenFiles()
	// Go ends a process that writes to a closed pipe on its standard output or error,
	// unless it asks for this signal: whoever reads the log may go. Asked for and not
	// ignored, because what is started would inherit that it is ignored.
	unheard := make(chan os.Signal, 1)
	signal.Notify(unheard, syscall.SIGPIPE)
	// nohup has brink ignore the first, and a script's & the second: brink goes on
	// ignoring them, its containers do not.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(unheard, s)
		}
	}
}

// openFiles is what the unit in docs/ gives: some 12 for each pod that starts, and
// containers inherit it.
const openFiles = 1 << 20

// raiseOpenFiles sets the limit where it may; check tells when it stays low.
func raiseOpenFiles() {
	most := uint64(openFiles)
	if text, err := os.ReadFile("/proc/sys/fs/nr_open"); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil {
			most = min(most, n)
		}
	}
	var now syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now) != nil {
		return
	}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: most, Max: most}) != nil {
		// Not allowed to have more than was given.
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: now.Max, Max: now.Max})
	}
}

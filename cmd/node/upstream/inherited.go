package upstream

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// umask is the mask for all files of the process, among them those that containerd and
// the kubelet make for containers: /, /etc/hosts, the directories of volumes. A
// stricter mask, inherited from whoever starts brink, shuts the containers' users out.
// Files with secrets have modes of their own.
const umask = 0o022

// dropInherited replaces what a process inherits from whoever started it and passes on
// to its children, so that a node started by hand, by cron or by anybody's unit is the
// same node.
func dropInherited() {
	syscall.Umask(umask)
	raiseOpenFiles()
	// Go ends a process that writes to a closed pipe on its standard output or error
	// unless the process asks for this signal, and the reader of the log may go. It is
	// asked for rather than ignored, because children would inherit that it is ignored.
	unheard := make(chan os.Signal, 1)
	signal.Notify(unheard, syscall.SIGPIPE)
	// nohup starts a process that ignores SIGHUP, and a script's & one that ignores
	// SIGINT. Asking for the ignored ones has the effect that brink still does not act on
	// them, but its containers do not inherit that they are ignored.
	for _, s := range []os.Signal{syscall.SIGHUP, syscall.SIGINT} {
		if signal.Ignored(s) {
			signal.Notify(unheard, s)
		}
	}
}

// openFiles is the limit that the unit in docs/ sets: a pod that starts takes some 12,
// and containers inherit it.
const openFiles = 1 << 20

// raiseOpenFiles sets the limit if it may; `brink check` warns when it stays low.
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

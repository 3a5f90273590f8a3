// Package upstream sets what the embedded programs keep in globals of the process:
// Kubernetes, containerd and kine are each written as if they had a process to
// themselves. All of it is set here, by one call of Set at the start of a node, and
// nothing of it while packages are initialised.
//
// Some globals cannot be set here, because their values are known elsewhere or later:
// feature gates follow from flags that server/controlplane and agent/kubelet parse,
// runtime/containerd puts the directory of its programs into PATH and sets containerd's
// own logger, and internal/proxyenv excludes an agent's cluster from a proxy once the
// agent has joined. The table of globals in internal/importlaw names all places, and a
// test keeps it.
//
// The package also owns the log lines that come through those globals: which are held
// back while a node starts, which are never worth a write to a flash card, and which
// must be written because the process ends right after them.
//
// Read in this order: upstream.go (Set), klog.go and logrus.go (where upstream's lines
// come in), startlog.go, repeats.go, transient.go, outage.go, outputs.go (what is left
// out of them), exiting.go (what is never left out), inherited.go and path.go (the
// process's own limits, signals and PATH).
package upstream

import (
	"cmp"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

const (
	// debugVerbosity is the verbosity that --debug sets, upstream's level for debugging.
	// It arrives as slog's level -4, which is slog.LevelDebug.
	debugVerbosity = 4
	// gcPercent starts a collection when the heap has grown by half since the last one;
	// Go's default is by all of it. Most of the heap of an idle node never changes: it
	// is collected every other minute, which costs some 50 ms of a core each time.
	gcPercent = 50
)

// Options are what the user and main decide on.
type Options struct {
	Debug bool
	// Verbosity is klog's, as given by a pass-through flag v=N, 0 when none is given.
	// Above 0, Kubernetes' information lines are written too.
	Verbosity int
	// Exit ends the process. klog calls it.
	Exit func(code int)
}

// Globals are what the process has after Set.
type Globals struct {
	// Log holds back what components log while they start.
	Log *StartLog
	// NotifySocket is where systemd waits to hear that the node is ready, empty for
	// none. It is taken out of the environment: the embedded kubelet would report
	// readiness as soon as it has started, and children have no business with it.
	NotifySocket string
	// Watchdog is within what time systemd wants to hear that the node is alive, 0 for
	// never. Left in the environment, the kubelet would feed it for itself alone.
	Watchdog time.Duration
}

// Set sets what upstream keeps in process globals:
//
//   - klog, through which every Kubernetes package logs, see setKlog.
//   - client-go's handler of API warnings, which are meant for people at a
//     terminal.
//   - apimachinery's crash handler: a panic in a goroutine of upstream ends the
//     process either way, but not before it is in the log.
//   - klog's way to end the process, for the same reason.
//   - logrus' standard logger, which kine uses.
//   - what the process inherits from whoever started it, see dropInherited.
//   - how much garbage the heap may hold, unless GOGC says so.
func Set(o Options) *Globals {
	dropInherited()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	level := slog.LevelInfo
	if o.Debug {
		level = slog.LevelDebug
		o.Verbosity = cmp.Or(o.Verbosity, debugVerbosity)
	}
	var handler slog.Handler = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	if !o.Debug {
		handler = newTransient(handler) // containerd writes here too
	}
	slog.SetDefault(slog.New(handler))
	setLogrus(handler, o.Debug)
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	start := newStartLog()
	setKlog(o, level, start)
	utilruntime.ReallyCrash = true
	utilruntime.PanicHandlers = append(utilruntime.PanicHandlers, start.showAtPanic)
	klog.OsExit = func(code int) {
		start.Show()
		o.Exit(code)
	}
	return &Globals{Log: start, NotifySocket: takeEnv("NOTIFY_SOCKET"), Watchdog: watchdog(takeEnv("WATCHDOG_USEC"), takeEnv("WATCHDOG_PID"))}
}

// watchdog reads what systemd sets for a service with WatchdogSec=, sd_watchdog_enabled(3).
func watchdog(microseconds, pid string) time.Duration {
	n, err := strconv.ParseInt(microseconds, 10, 64)
	if err != nil || n <= 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// LogWarningsOnly leaves information lines out of the log of a command that prints itself
// what it does. It does nothing of what Set does.
func LogWarningsOnly() { slog.SetLogLoggerLevel(slog.LevelWarn) }

// takeEnv returns a variable of the environment and removes it there.
func takeEnv(name string) string {
	value := os.Getenv(name)
	os.Unsetenv(name)
	return value
}

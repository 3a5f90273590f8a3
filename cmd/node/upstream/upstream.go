// Package upstream sets what the embedded programs keep in globals of the process:
// Kubernetes, containerd and kine are written as if each had a process to itself.
// All of it is set here, by one call of Set at the start of a node, so that one file
// says what a node's process differs in from any other.
//
// It also owns what is said through those globals: which of upstream's log lines are
// held back while a node starts, which are never worth a write to a flash card, and
// which must be shown because the process ends behind them.
//
// Read in this order: upstream.go, klog.go and logrus.go (how lines come here),
// startlog.go, repeats.go, passing.go, awaylines.go (which of them are written),
// lastwords.go, inherited.go, path.go.
package upstream

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

const (
	// debugVerbosity is that of --debug: upstream's level for debugging. A slog level
	// of -4 is the same one.
	debugVerbosity = 4
	// gcPercent makes garbage wait for half of the live heap instead of all of
	// it. Most of the heap of an idle node never changes; a collection costs it
	// some 50 ms of a core and then happens every other minute.
	gcPercent = 50
)

// Options are what the user, and main, decide on.
type Options struct {
	Debug bool
	// Verbosity is klog's, as given by a pass-through flag v=N, 0 when none is given;
	// above 0 it shows Kubernetes' information lines too.
	Verbosity int
	// Exit ends the process, for klog.
	Exit func(code int)
}

// Globals are what the process has after Set.
type Globals struct {
	// Log holds back what components say while they start.
	Log *StartLog
	// NotifySocket is where systemd waits to hear that the node is ready, empty for
	// none. It is taken out of the environment: the embedded kubelet would report
	// readiness as soon as it has started, and children have no business with it.
	NotifySocket string
}

// Set sets what upstream keeps in process globals, all in one place:
//
//   - klog, through which every Kubernetes package logs. Its information lines
//     are shown with --debug only: a healthy node writes a line a minute to its
//     journal, and the journal is on the flash card too. Nor are warnings and
//     errors that are the same as one a few minutes ago, that are about a state
//     which is usually over at once, or that the database is away, which the
//     datastore says.
//   - client-go's handler of API warnings, which are meant for people at a
//     terminal.
//   - apimachinery's crash handler: a panic in a goroutine of upstream ends the
//     process either way, but not before it is in the log.
//   - klog's way to end the process, for the same reason.
//   - logrus' standard logger, which kine uses.
//
// And what the process has from whoever started it, see dropInherited, and how much
// garbage it keeps, unless GOGC says so.
func Set(o Options) *Globals {
	dropInherited()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	level, verbosity := slog.LevelInfo, o.Verbosity
	if o.Debug {
		level = slog.LevelDebug
		verbosity = cmp.Or(verbosity, debugVerbosity)
	}
	var handler slog.Handler = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	if !o.Debug {
		handler = newPassing(handler) // containerd writes here too
	}
	slog.SetDefault(slog.New(handler))

	// WATCHDOG_USEC would make the kubelet feed systemd's watchdog for itself
	// alone.
	takeEnv("WATCHDOG_USEC")
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	start := newStartLog()
	utilruntime.ReallyCrash = true
	utilruntime.PanicHandlers = append(utilruntime.PanicHandlers, func(context.Context, any) { start.Show() })
	klog.OsExit = func(code int) {
		start.Show()
		o.Exit(code)
	}
	// A klog line of verbosity n arrives as level -n.
	klogLevel := min(level, slog.Level(-verbosity))
	var kubernetes slog.Handler = outputs{slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: klogLevel})}.
		WithAttrs([]slog.Attr{slog.String("component", "kubernetes")})
	logrus.SetLevel(logrus.WarnLevel)
	switch {
	case o.Debug:
		logrus.SetLevel(logrus.DebugLevel)
		start.Drop()
	case verbosity > 0:
		start.Drop()
	default:
		kubernetes = start.wrap(newAwayLines(newPassing(newRepeats(atLeast{slog.LevelWarn, kubernetes}))))
	}
	setVerbosity(verbosity)
	klog.SetLoggerWithOptions(logr.FromSlogHandler(kubernetes), klog.ContextualLogger(true), klog.WriteKlogBuffer(klogLines(start, kubernetes)))
	logrus.SetOutput(io.Discard)
	logrus.AddHook(kineHook{handler.WithAttrs([]slog.Attr{slog.String("component", "datastore")})})
	return &Globals{Log: start, NotifySocket: takeEnv("NOTIFY_SOCKET")}
}

// LogWarningsOnly is for a command that tells what it does in words of its own. It
// sets nothing else of what Set does.
func LogWarningsOnly() { slog.SetLogLoggerLevel(slog.LevelWarn) }

// takeEnv returns a variable of the environment and removes it there.
func takeEnv(name string) string {
	value := os.Getenv(name)
	os.Unsetenv(name)
	return value
}

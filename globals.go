package main

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// notifySocket is where systemd waits to hear that the node is ready. It is
// taken out of the environment: the embedded kubelet would report readiness as
// soon as it has started, and children have no business with it.
var notifySocket = takeEnv("NOTIFY_SOCKET")

func takeEnv(name string) string {
	value := os.Getenv(name)
	os.Unsetenv(name)
	return value
}

// debugVerbosity is that of --debug: upstream's level for debugging. A slog level
// of -4 is the same one.
const debugVerbosity = 4

// setGlobals sets what upstream keeps in process globals, all in one place:
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
// And what the process has from whoever started it, see dropInherited.
//
// verbosity is klog's, as given by a pass-through flag v=N, 0 when none is given;
// above 0 it shows Kubernetes' information lines too. The returned log holds back
// what components say while they start.
func setGlobals(debug bool, verbosity int) *startLog {
	dropInherited()
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
		verbosity = cmp.Or(verbosity, debugVerbosity)
	}
	var handler slog.Handler = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	if !debug {
		handler = newPassing(handler) // containerd writes here too
	}
	slog.SetDefault(slog.New(handler))

	// WATCHDOG_USEC would make the kubelet feed systemd's watchdog for itself
	// alone.
	takeEnv("WATCHDOG_USEC")
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	start := newStartLog()
	runtime.ReallyCrash = true
	runtime.PanicHandlers = append(runtime.PanicHandlers, func(context.Context, any) { start.show() })
	klog.OsExit = func(code int) {
		start.show()
		os.Exit(code)
	}
	// A klog line of verbosity n arrives as level -n.
	klogLevel := min(level, slog.Level(-verbosity))
	kubernetes := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: klogLevel}).WithAttrs([]slog.Attr{slog.String("component", "kubernetes")})
	logrus.SetLevel(logrus.WarnLevel)
	switch {
	case debug:
		logrus.SetLevel(logrus.DebugLevel)
		start.drop()
	case verbosity > 0:
		start.drop()
	default:
		kubernetes = start.wrap(newAwayLines(newPassing(newRepeats(atLeast{slog.LevelWarn, kubernetes}))))
	}
	setVerbosity(verbosity)
	klog.SetLoggerWithOptions(logr.FromSlogHandler(kubernetes), klog.ContextualLogger(true), klog.WriteKlogBuffer(klogLines(start, kubernetes)))
	logrus.SetOutput(io.Discard)
	logrus.AddHook(kineHook{handler.WithAttrs([]slog.Attr{slog.String("component", "datastore")})})
	return start
}

// setVerbosity sets what klog lets through, process wide.
func setVerbosity(level int) {
	var v klog.Level
	_ = v.Set(strconv.Itoa(level))
}

// klogLevels are the letters with which klog begins a line.
var klogLevels = map[byte]slog.Level{'I': slog.LevelInfo, 'W': slog.LevelWarn, 'E': slog.LevelError, 'F': slog.LevelError}

// klogLines takes the lines of klog's older calls, such as Warningf and Fatalf:
// "W1124 21:42:00.203111    4711 file.go:9] text". Handed over as records all
// but errors would have the level of information, and the reason of a Fatalf
// would not be shown.
func klogLines(start *startLog, h slog.Handler) func([]byte) {
	return func(line []byte) {
		header, text, ok := strings.Cut(string(line), "] ")
		if !ok || header == "" {
			return
		}
		level := klogLevels[header[0]]
		if header[0] == 'F' {
			start.show()
		}
		ctx := context.Background()
		if h.Enabled(ctx, level) {
			_ = h.Handle(ctx, slog.NewRecord(time.Now(), level, strings.TrimSpace(text), 0))
		}
	}
}

// kineHook passes logrus' records to slog.
type kineHook struct{ handler slog.Handler }

func (kineHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h kineHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch e.Level {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		level = slog.LevelError
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.InfoLevel:
		level = slog.LevelInfo
	}
	ctx := context.Background()
	if !h.handler.Enabled(ctx, level) {
		return nil
	}
	record := slog.NewRecord(e.Time, level, strings.TrimSpace(e.Message), 0)
	for key, value := range e.Data {
		record.Add(key, value)
	}
	return h.handler.Handle(ctx, record)
}

// atLeast drops records below a level.
type atLeast struct {
	level slog.Level
	slog.Handler
}

func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.level, h.Handler.WithAttrs(attrs)}
}

func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.level, h.Handler.WithGroup(name)}
}

package upstream

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// setKlog sends the lines of Kubernetes' packages to standard error. Its information
// lines are written with --debug or a verbosity only: a healthy node writes a line a
// minute to its journal, and the journal is on the flash card too. Three kinds of warnings
// and errors are not written either: those that repeat one of a few minutes ago, those
// about a state that is usually over at once, and the consequences of an outage of the
// database, which the datastore logs itself.
func setKlog(o Options, level slog.Level, start *StartLog) {
	// A klog line of verbosity n arrives as level -n.
	level = min(level, slog.Level(-o.Verbosity))
	var handler slog.Handler = outputs{slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})}.
		WithAttrs([]slog.Attr{slog.String("component", "kubernetes")})
	if o.Verbosity > 0 {
		start.Drop()
	} else {
		handler = start.wrap(newOutage(newTransient(newRepeats(atLeast{slog.LevelWarn, handler}))))
	}
	setVerbosity(o.Verbosity)
	klog.SetLoggerWithOptions(logr.FromSlogHandler(handler), klog.ContextualLogger(true), klog.WriteKlogBuffer(klogLines(start, handler)))
}

// setVerbosity sets what klog lets through, process wide.
func setVerbosity(level int) {
	var v klog.Level
	_ = v.Set(strconv.Itoa(level))
}

// klogLevels are the letters with which klog begins a line.
var klogLevels = map[byte]slog.Level{'I': slog.LevelInfo, 'W': slog.LevelWarn, 'E': slog.LevelError, 'F': slog.LevelError}

// klogLines takes the lines of klog's older calls, such as Warningf and Fatalf:
// "W1124 21:42:00.203111    4711 file.go:9] text". klog would hand them over as
// records in which all but errors have the level of information, and the reason of a
// Fatalf would not be written.
func klogLines(start *StartLog, h slog.Handler) func([]byte) {
	return func(line []byte) {
		header, text, ok := strings.Cut(string(line), "] ")
		if !ok || header == "" {
			return
		}
		level := klogLevels[header[0]]
		if header[0] == 'F' {
			start.Show()
		}
		ctx := context.Background()
		if h.Enabled(ctx, level) {
			_ = h.Handle(ctx, slog.NewRecord(time.Now(), level, strings.TrimSpace(text), 0))
		}
	}
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

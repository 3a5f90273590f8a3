package upstream

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

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

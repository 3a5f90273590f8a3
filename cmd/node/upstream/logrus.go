package upstream

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
)

// setLogrus sends the lines of logrus' standard logger, which only kine uses, to
// handler.
func setLogrus(handler slog.Handler, debug bool) {
	logrus.SetLevel(logrus.WarnLevel)
	if debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
	logrus.SetOutput(io.Discard)
	logrus.AddHook(kineHook{handler.WithAttrs([]slog.Attr{slog.String("component", "datastore")})})
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

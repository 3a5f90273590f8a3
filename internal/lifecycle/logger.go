package lifecycle

import (
	"context"
	"log/slog"
)

// componentKey is the attribute that names the component in each line of the log.
const componentKey = "component"

type loggerKey struct{}

// Logger returns the logger of the component that ctx was given to, which adds the
// component's name to each line. Outside of components it returns the process's own.
func Logger(ctx context.Context) *slog.Logger {
	if log, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return log
	}
	return slog.Default()
}

// withLogger returns a context with the logger of a component. When a component runs a group
// of its own, the innermost name is logged.
func withLogger(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, loggerKey{}, slog.With(componentKey, name))
}

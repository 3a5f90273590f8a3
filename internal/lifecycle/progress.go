package lifecycle

import "context"

type progressKey struct{}

// Progress tells what the component that ctx was given to is at, in a few words for
// `brink status` and the service manager. An empty text says that it is done. Outside of
// components nobody is told.
func Progress(ctx context.Context, text string) {
	if tell, ok := ctx.Value(progressKey{}).(func(string)); ok {
		tell(text)
	}
}

// withProgress returns a context whose progress is told to tell.
func withProgress(ctx context.Context, tell func(string)) context.Context {
	return context.WithValue(ctx, progressKey{}, tell)
}

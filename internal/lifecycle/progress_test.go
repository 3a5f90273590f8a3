package lifecycle

import (
	"context"
	"testing"
)

// TestProgress: what a component is at is in its status, until it is done.
func TestProgress(t *testing.T) {
	t.Parallel()
	Progress(t.Context(), "outside of components")
	g := Group{}
	during := ""
	ctx, cancel := context.WithCancel(t.Context())
	g.Add(Component{Name: "images", Run: func(ctx context.Context, ready func()) error {
		Progress(ctx, "importing")
		during = g.Status()[0].Progress
		Progress(ctx, "")
		ready()
		<-ctx.Done()
		return nil
	}})
	if err := g.Run(ctx, cancel); err != nil {
		t.Fatal(err)
	}
	if after := g.Status()[0].Progress; during != "importing" || after != "" {
		t.Errorf("the status says %q, and %q when it is done", during, after)
	}
}

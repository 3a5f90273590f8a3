package lifecycle

import (
	"context"
	"slices"
	"testing"
)

// TestProgress: what a component is at is in its status and told to whoever listens, and
// nowhere when it is done.
func TestProgress(t *testing.T) {
	t.Parallel()
	Progress(t.Context(), "outside of components")
	var told []string
	g := Group{Progressed: func(s Status) { told = append(told, s.Name+": "+s.Progress) }}
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
	if want := []string{"images: importing", "images: "}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if after := g.Status()[0].Progress; during != "importing" || after != "" {
		t.Errorf("the status says %q, and %q when it is done", during, after)
	}
}

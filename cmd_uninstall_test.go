package main

import (
	"context"
	"io"
	"strings"
	"testing"
)

func TestReadLine(t *testing.T) {
	t.Parallel()
	if got := readLine(t.Context(), strings.NewReader("yes\nmore")); got != "yes\n" {
		t.Errorf("got %q", got)
	}
	if got := readLine(t.Context(), strings.NewReader("")); got != "" {
		t.Errorf("the input has ended: got %q", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	never, held := io.Pipe()
	defer held.Close()
	stop() // ^C at the question, before anything is typed
	if got := readLine(ctx, never); got != "" {
		t.Errorf("got %q", got)
	}
}

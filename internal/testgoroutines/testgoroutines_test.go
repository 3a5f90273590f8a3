package testgoroutines

import (
	"context"
	"strings"
	"testing"
)

func TestStartedBy(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	other := make(chan struct{})
	go func() { <-other }() // started by the test, not by f
	defer close(other)
	ended := make(chan struct{})
	WantNone(t, func() {
		started := make(chan struct{})
		go func() {
			go func() {
				close(started)
				<-ctx.Done()
				close(ended)
			}()
		}()
		<-started
		if left := startedBy(t.Name()); len(left) < 1 || !strings.Contains(strings.Join(left, ""), "TestStartedBy.func") {
			t.Errorf("one goroutine waits: got %q", left)
		}
		cancel()
	})
	<-ended
}

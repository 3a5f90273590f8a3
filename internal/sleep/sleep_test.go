package sleep

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if !For(ctx, time.Second) || time.Since(begun) != time.Second {
			t.Errorf("returned after %s", time.Since(begun))
		}
		if For(ctx, time.Hour) || time.Since(begun) != time.Minute {
			t.Errorf("with a context of a minute: returned after %s", time.Since(begun))
		}
		if For(ctx, time.Nanosecond) {
			t.Error("the context has ended")
		}
	})
}

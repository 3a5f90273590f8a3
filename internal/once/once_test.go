package once

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := Reporter{Every: time.Hour}
		steps := []struct {
			after     time.Duration
			key, text string
			want      bool
		}{
			{0, "a", "down", true},
			{0, "a", "down", false},
			{0, "b", "down", true},
			{0, "a", "still down", true},
			{0, "a", "down", true},
			{59 * time.Minute, "a", "down", false},
			{time.Minute, "a", "down", true},
			{time.Minute, "a", "down", false},
		}
		for i, s := range steps {
			time.Sleep(s.after)
			if got := r.Changed(s.key, s.text); got != s.want {
				t.Errorf("step %d: %s %q is reported: %v", i, s.key, s.text, got)
			}
		}
	})
}

func TestChangedOnlyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r Reporter
		if !r.Changed("a", "down") {
			t.Error("the first is not reported")
		}
		time.Sleep(1000 * time.Hour)
		if r.Changed("a", "down") {
			t.Error("the same is reported again, with no period set")
		}
	})
}

func TestCleared(t *testing.T) {
	t.Parallel()
	var r Reporter
	if r.Cleared("a") {
		t.Error("what was never reported is cleared")
	}
	r.Changed("a", "down")
	if !r.Cleared("a") || r.Cleared("a") {
		t.Error("want it cleared once")
	}
	if !r.Changed("a", "down") {
		t.Error("what comes again after it was cleared is not reported")
	}
}

func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	var r Reporter
	for i := range 10 * maxKeys {
		if !r.Changed(fmt.Sprint(i), "") {
			t.Fatalf("key %d is not reported", i)
		}
	}
	if len(r.last) > maxKeys {
		t.Errorf("%d keys are remembered", len(r.last))
	}
}

package containerd

import (
	"testing"
	"time"

	"brink/runtime/images"
)

// TestIsOver: a list of images waits longer between tries than what nobody wants is kept,
// and only time that has passed while the node runs counts.
func TestIsOver(t *testing.T) {
	t.Parallel()
	start := time.Now()
	for name, c := range map[string]struct {
		since, idle time.Duration
		wanted      bool
		want        bool
	}{
		"a list between its tries":    {since: time.Hour, idle: images.LastRetry + time.Minute, wanted: true},
		"nobody wants it":             {since: time.Hour, idle: keepPulls + time.Minute, want: true},
		"somebody may come":           {since: time.Hour, idle: keepPulls - time.Minute},
		"nobody has tried for a day":  {since: 30 * time.Hour, idle: 25 * time.Hour, wanted: true, want: true},
		"it is tried in vain, always": {since: keepAtMost + time.Hour, idle: time.Second, wanted: true, want: true},
	} {
		now := start.Add(100 * 24 * time.Hour)
		p := pull{since: now.Add(-c.since), last: now.Add(-c.idle)}
		if got := p.isOver(now, keepPulls, func() bool { return c.wanted }); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestTooMuch: a quarter of the disk, and less where it is nearly full.
func TestTooMuch(t *testing.T) {
	t.Parallel()
	kept := []keptPull{{bytes: 10}, {bytes: 20}, {bytes: 30}}
	for _, c := range []struct{ size, free, want int64 }{
		{1000, 500, 0},
		{200, 100, 1}, // 60 of 200 is more than a quarter, 50 is not
		{100, 90, 3},  // of 100 only 25 may be kept, and the last has 30
		{1000, 30, 3}, // nearly full, and all that goes does not help
		{1000, 75, 2}, // 105 are free then
		{1000, 100, 0},
	} {
		if got := tooMuch(kept, c.size, c.free); int64(got) != c.want {
			t.Errorf("%d of %d free: %d go, want %d", c.free, c.size, got, c.want)
		}
	}
}

package containerd

import "testing"

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

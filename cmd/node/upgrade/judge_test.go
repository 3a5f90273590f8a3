package upgrade

import (
	"strings"
	"testing"
	"time"
)

// run shows a judge the same sight each second, up to a number of seconds, with ends growing
// each fifth second if the process ends.
func run(j *judge, s sight, seconds int, ending bool) (verdict, string, int) {
	for i := range seconds {
		if ending {
			s.ends = i / 5
		}
		if v, why := j.look(time.Second, s); v != undecided {
			return v, why, i + 1
		}
	}
	return undecided, "", seconds
}

func TestJudge(t *testing.T) {
	t.Parallel()
	const limit = 5 * time.Minute
	for _, c := range []struct {
		name     string
		sight    sight
		ending   bool
		wasReady bool
		want     verdict
		why      string
		within   int // seconds
	}{
		{"Ready", sight{answers: true, isNew: true, ready: true}, false, true, good, "", 10},
		{"ends", sight{}, true, true, bad, "has ended 5 times", 30},
		{"hangs", sight{}, false, true, bad, "did not answer within 5m0s", 300},
		{"is not Ready", sight{answers: true, isNew: true, why: "network is starting"}, false, true, bad, "network is starting", 300},
		{"the old one runs", sight{answers: true, ready: true}, false, true, bad, "what runs is not the new version", 300},
		{"waits", sight{answers: true, isNew: true, outside: "no server answers"}, false, true, undecided, "", 10000},
		{"ends without an address", sight{outside: "no address"}, true, true, undecided, "", 10000},
		{"was not Ready before and stays alive", sight{answers: true, isNew: true}, false, false, good, "", 300},
		{"was not Ready before and is now", sight{answers: true, isNew: true, ready: true}, false, false, good, "", 10},
		{"was not Ready before and waits", sight{answers: true, isNew: true, outside: "no server answers"}, false, false, undecided, "", 10000},
		{"was not Ready before and ends", sight{}, true, false, bad, "has ended 5 times", 30},
	} {
		got, why, after := run(&judge{limit: limit, wasReady: c.wasReady}, c.sight, 10000, c.ending)
		if got != c.want || !strings.Contains(why, c.why) || after > c.within {
			t.Errorf("%s: %d (%s) after %d s, want %d (%s) within %d s", c.name, got, why, after, c.want, c.why, c.within)
		}
	}
}

// A node that is Ready for a moment now and then is not good, and a machine that slept holds
// nothing against the new version.
func TestJudgeWaitsForRest(t *testing.T) {
	t.Parallel()
	j := &judge{limit: time.Minute, wasReady: true}
	for i := range 50 {
		s := sight{answers: true, isNew: true, ready: i%9 != 0, why: "x"}
		if v, _ := j.look(time.Second, s); v != undecided {
			t.Fatalf("decided after %d s", i+1)
		}
	}
	j = &judge{limit: settled, wasReady: true} // that has become Ready just in time
	if v, why, _ := run(j, sight{answers: true, isNew: true}, int(settled/time.Second)-1, false); v != undecided {
		t.Errorf("decided before its time: %s", why)
	}
	if v, why, _ := run(j, sight{answers: true, isNew: true, ready: true}, 60, false); v != good {
		t.Errorf("it has become Ready in time: %s", why)
	}
	j = &judge{limit: time.Minute, wasReady: true}
	if v, why := j.look(8*time.Hour, sight{}); v != undecided {
		t.Errorf("after a night's sleep: %s", why)
	}
}

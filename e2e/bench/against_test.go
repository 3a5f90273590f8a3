package main

import (
	"strings"
	"testing"
)

// TestAgainstBar: the bar is 5 %, or what the old build's own runs differ by when
// that is more.
func TestAgainstBar(t *testing.T) {
	t.Parallel()
	steady := []float64{100, 100, 101}
	noisy := []float64{80, 100, 120}
	for _, c := range []struct {
		name     string
		now, old []float64
		missed   bool
	}{
		{"better", []float64{90, 91, 92}, steady, false},
		{"worse by less than the slack", []float64{104, 104, 104}, steady, false},
		{"worse by more", []float64{106, 106, 106}, steady, true},
		{"within the old build's own runs", []float64{118, 118, 118}, noisy, false},
		{"beyond the old build's own runs", []float64{122, 122, 122}, noisy, true},
		{"one bad run of three", []float64{100, 100, 300}, steady, false},
	} {
		var runs comparison
		for _, v := range c.now {
			runs.add(brinkName, sample{"ready": v})
		}
		for _, v := range c.old {
			runs.add(oldName, sample{"ready": v})
		}
		rows, err := againstRows(runs)
		if (err != nil) != c.missed {
			t.Errorf("%s: error %v, want one: %t", c.name, err, c.missed)
		}
		if len(rows) != 1 || strings.Contains(rows[0].Bar, "missed") != c.missed {
			t.Errorf("%s: rows %+v", c.name, rows)
		}
	}
}

func TestAgainstGoesAlone(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-against", "x", "-only", "node"}, {"-against", "x", "-side", "brink"}, {"-load"}, {"-only", againstPart},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	s, err := parse([]string{"-against", "x"})
	if err != nil {
		t.Fatal(err)
	}
	if s.runs != againstPairs || !s.wants(againstPart) || s.wants(nodePart) {
		t.Errorf("runs %d, wants %s: %t, wants %s: %t", s.runs, againstPart, s.wants(againstPart), nodePart, s.wants(nodePart))
	}
}

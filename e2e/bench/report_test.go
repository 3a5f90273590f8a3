package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 9, 2}, 3},
	} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, want %v", before, got, c.want)
		}
		if !slices.Equal(before, c.values) {
			t.Errorf("the order of runs %v became %v", before, c.values)
		}
	}
}

func TestRows(t *testing.T) {
	t.Parallel()
	r := comparison{samples: map[string][]sample{
		brinkName:    {{"ready": 3, "pss": 100e6}, {"ready": 1, "pss": 100e6}, {"ready": 2, "pss": 100e6}},
		separateName: {{"ready": 8, "disk": 0}, {"ready": 4, "disk": 0}, {"ready": 5, "disk": 0}},
	}}
	got := map[string]row{}
	for i, row := range r.rows(nodeMetrics) {
		got[nodeMetrics[i].key] = row
	}
	for key, want := range map[string]row{
		"ready": {Brink: "2.00 s", Separate: "5.00 s", Ratio: "0.40", Runs: "1.00–3.00 s / 4.00–8.00 s"},
		"pss":   {Brink: "100.0 MB", Separate: "-", Ratio: "", Runs: "100.0 MB / -"},
		"disk":  {Brink: "-", Separate: "0.0 MB", Ratio: "", Runs: "- / 0.0 MB"},
	} {
		want.Title = got[key].Title
		if got[key] != want {
			t.Errorf("%s: %+v, want %+v", key, got[key], want)
		}
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var hundred latencies
	for i := range 100 {
		hundred = append(hundred, time.Duration(i))
	}
	for _, c := range []struct {
		l    latencies
		p    int
		want time.Duration
	}{
		{hundred, 50, 50}, {hundred, 99, 99}, {latencies{7}, 99, 7}, {latencies{1, 2}, 50, 2},
	} {
		if got := c.l.percentile(c.p); got != c.want {
			t.Errorf("p%d of %d is %d, want %d", c.p, len(c.l), got, c.want)
		}
	}
}

func TestCPUIn(t *testing.T) {
	t.Parallel()
	// A name may hold what looks like the end of the name.
	got, err := cpuIn("42 (a) R b) S 1 42 42 0 -1 4194560 9 8 7 6 100 20 3 1 20 0 11 0 5 1000 10")
	if want := 1240 * time.Millisecond; err != nil || got != want {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := cpuIn("42 (short) S 1"); err == nil {
		t.Error("a line without times was taken")
	}
}

func TestParseFields(t *testing.T) {
	t.Parallel()
	got := parseFields("55d0-7ffd ---p 00000000 00:00 0    [rollup]\nPss:      2048 kB\nPss_Anon:      12 kB\nwrite_bytes: 4096\n")
	for name, want := range map[string]int64{"Pss": 2048, "Pss_Anon": 12, "write_bytes": 4096} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d", name, got[name], want)
		}
	}
}

// TestUnsaved: a figure that leaves out what brink writes now and then must not
// look like one.
func TestUnsaved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sample sample
		want   bool
	}{
		{sample{"disk": 1e6}, false},
		{sample{"disk": 1e6, unsaved: 1}, true},
	} {
		r := comparison{samples: map[string][]sample{brinkName: {c.sample}}}
		for i, row := range r.rows(nodeMetrics) {
			marked := strings.Contains(row.Title, "not valid")
			if want := c.want && nodeMetrics[i].key == "disk"; marked != want {
				t.Errorf("with %v the row %q is marked: %t, want %t", c.sample, row.Title, marked, want)
			}
		}
	}
}

// TestNetworkRows: the bar is a share of the other's throughput, not of its time.
func TestNetworkRows(t *testing.T) {
	t.Parallel()
	n := networkResult{pairing: pairings[0], comparison: comparison{samples: map[string][]sample{
		brinkName: {{"throughput": 2e9, "roundtrip": 60e-6}, {"throughput": 2e9, "roundtrip": 60e-6}},
		handName:  {{"throughput": 2.2e9, "roundtrip": 50e-6}, {"throughput": 2.2e9, "roundtrip": 50e-6}},
		proxyName: {{"throughput": 2.1e9, "roundtrip": 50e-6}, {"throughput": 2.1e9, "roundtrip": 50e-6}},
	}}}
	var got []string
	for _, row := range n.rows() {
		got = append(got, row.Ratio+" "+row.Bar)
	}
	want := []string{"0.91 at least 0.95: missed", "0.95 at least 0.95: passed", "1.20 ", "1.20 "}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseBenchmark(t *testing.T) {
	t.Parallel()
	got := parseBenchmark(`goos: linux
BenchmarkOneMorePeer/vxlan/10/join-and-leave-2         	    5000	    234567 ns/op	   12345 B/op	     678 allocs/op
BenchmarkOneMorePeer/host-gw/1000/tick-2	200000	55.21 ns/op	0 B/op	0 allocs/op
BenchmarkOther/10-2    1    1 ns/op
PASS
`)
	want := []peerCost{{"vxlan, 10, join-and-leave", "235µs", "12.3 kB"}, {"host-gw, 1000, tick", "55ns", "0.0 kB"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

package footprint

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// smaps is shortened from a running brink's.
const smaps = `00400000-00401000 r--p 00000000 fe:00 10379437                           /opt/my bin/brink
Rss:                   4 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
VmFlags: rd mr mw me
00401000-04c58000 r-xp 00001000 fe:00 10379437                           /opt/my bin/brink
Rss:               66032 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
09cdd000-09ce3000 r--p 098dd000 fe:00 10379437                           /opt/my bin/brink
Anonymous:             8 kB
09ce3000-0a516000 rw-p 098e3000 fe:00 10379437                           /opt/my bin/brink
Anonymous:             0 kB
afaa4000000-afaa5c00000 ---p 00000000 00:00 0 
Anonymous:             0 kB
7fe32402f000-7fe328000000 r--p 00000000 fe:00 12                         /opt/my bin/brink.db
Anonymous:             0 kB
`

func TestCleanRegions(t *testing.T) {
	t.Parallel()
	got, err := cleanRegions(strings.NewReader(smaps), "/opt/my bin/brink")
	want := []region{{0x400000, 0x401000}, {0x401000, 0x4c58000}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
}

// TestUnmapProgram goes on running after its own code was unmapped, and finds
// that some of it was: what it runs through has come back.
func TestUnmapProgram(t *testing.T) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	regions, err := cleanRegions(f, exe)
	if err != nil || len(regions) < 2 {
		t.Fatalf("found %x (%v), want at least text and tables", regions, err)
	}
	before := fileResident(t)
	if err := unmapProgram(); err != nil {
		t.Fatal(err)
	}
	if after := fileResident(t); after >= before {
		t.Errorf("%d kB of files are mapped, before it were %d", after, before)
	}
}

// fileResident is RssFile of proc(5)'s status, in kB.
func fileResident(t *testing.T) (kB int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	for _, r := range strings.Fields(rest)[0] {
		kB = kB*10 + int(r-'0')
	}
	return kB
}

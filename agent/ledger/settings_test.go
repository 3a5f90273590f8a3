package ledger

import (
	"os"
	"path/filepath"
	"testing"

	"brink/internal/layout"
	"brink/internal/testtree"
)

// kernel is a tree of settings.
type kernel struct {
	*testing.T
	root string
	l    layout.Layout
}

func newKernel(t *testing.T) kernel {
	t.Parallel()
	root := testtree.Make(t, map[string]string{"vm/overcommit_memory": "0\n", "kernel/panic": "0\n", "net/ipv4/ip_forward": "1\n", "net/range": "1 2\n"})
	return kernel{t, root, layout.New(t.TempDir())}
}

func (k kernel) set(name, value string) {
	k.Helper()
	testtree.Fill(k, k.root, map[string]string{name: value + "\n"})
}

// restart is one start, which changes what it has written down.
func (k kernel) restart(want map[string]string) {
	k.Helper()
	if err := recordSettings(k.root, k.l, want); err != nil {
		k.Fatal(err)
	}
	for name, value := range want {
		if _, err := os.Stat(filepath.Join(k.root, name)); err == nil {
			k.set(name, value)
		}
	}
}

// putBack is an uninstall.
func (k kernel) putBack() {
	k.Helper()
	entries, err := Read(k.l.Made())
	if err != nil {
		k.Fatal(err)
	}
	for _, s := range Settings(entries) {
		if _, err := s.PutBack(); err != nil {
			k.Error(err)
		}
	}
}

func (k kernel) mustHave(want map[string]string) {
	k.Helper()
	for name, value := range want {
		if got, err := readSetting(filepath.Join(k.root, name)); err != nil || got != value {
			k.Errorf("%s is %q (%v), want %q", name, got, err, value)
		}
	}
}

var wanted = map[string]string{"vm/overcommit_memory": "1", "kernel/panic": "10", "net/ipv4/ip_forward": "1", "net/range": "3", "not/there": "1"}

func TestSettingsArePutBack(t *testing.T) {
	k := newKernel(t)
	k.restart(wanted)
	k.restart(wanted) // finds its own values
	k.putBack()
	// ip_forward had its value before brink.
	k.mustHave(map[string]string{"vm/overcommit_memory": "0", "kernel/panic": "0", "net/ipv4/ip_forward": "1"})
}

func TestSettingsOfOthersStay(t *testing.T) {
	k := newKernel(t)
	k.restart(wanted)
	k.set("kernel/panic", "30")
	k.putBack()
	k.mustHave(map[string]string{"vm/overcommit_memory": "0", "kernel/panic": "30"})
}

// TestSettingsChangedBetweenStarts: the owner's last choice is what comes back.
func TestSettingsChangedBetweenStarts(t *testing.T) {
	k := newKernel(t)
	k.restart(wanted)
	k.set("kernel/panic", "30")
	k.restart(wanted)
	k.putBack()
	k.mustHave(map[string]string{"kernel/panic": "30", "vm/overcommit_memory": "0"})
}

// TestSettingsAreWrittenBefore: a start that is killed in between leaves the entry.
func TestSettingsAreWrittenBefore(t *testing.T) {
	k := newKernel(t)
	if err := recordSettings(k.root, k.l, wanted); err != nil {
		t.Fatal(err)
	}
	k.putBack() // nothing has been changed
	k.mustHave(map[string]string{"vm/overcommit_memory": "0", "kernel/panic": "0"})
	k.set("vm/overcommit_memory", "1")
	k.putBack()
	k.mustHave(map[string]string{"vm/overcommit_memory": "0"})
}

func TestUnknownSettings(t *testing.T) {
	k := newKernel(t)
	learn := func() func() error {
		t.Helper()
		done, err := recordUnknown(k.root, k.l, "kernel/panic", "vm/overcommit_memory", "not/there")
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	for range 2 { // the second start changes nothing
		done := learn()
		k.set("kernel/panic", "7")
		if err := done(); err != nil {
			t.Fatal(err)
		}
	}
	learn() // is killed
	k.putBack()
	k.mustHave(map[string]string{"kernel/panic": "0", "vm/overcommit_memory": "0"})
}

// TestRebootWritesNothing: the settings come back with their old values, as they are
// written down already.
func TestRebootWritesNothing(t *testing.T) {
	k := newKernel(t)
	start := func() {
		t.Helper()
		k.restart(wanted)
		done, err := recordUnknown(k.root, k.l, "net/tcp/established", "net/tcp/liberal")
		if err != nil {
			t.Fatal(err)
		}
		k.set("net/tcp/established", "86400")
		if err := done(); err != nil {
			t.Fatal(err)
		}
	}
	boot := func() {
		for name, value := range map[string]string{"vm/overcommit_memory": "0", "kernel/panic": "0", "net/tcp/established": "432000", "net/tcp/liberal": "0"} {
			k.set(name, value)
		}
	}
	boot()
	start()
	before, err := os.Stat(k.l.Made())
	if err != nil {
		t.Fatal(err)
	}
	boot()
	start()
	// A file that is written is another one, or has at least another time: of two that
	// replace each other the second may get the number of the one before.
	if after, err := os.Stat(k.l.Made()); err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("it was written again (%v)", err)
	}
	k.putBack()
	k.mustHave(map[string]string{"vm/overcommit_memory": "0", "kernel/panic": "0", "net/tcp/established": "432000", "net/tcp/liberal": "0"})
}

package nodeaddr

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"brink/internal/commas"
)

var pods = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}

func at(ip string) []Address { return []Address{{IP: netip.MustParseAddr(ip), Link: "eth0"}} }

// machine is what find finds on a machine that has the wanted address or, if that is
// gone, the first that it has.
type machine struct{ has []Address }

func (m *machine) find(_ query, preferred []Address) ([]Address, error) {
	if len(m.has) == 0 {
		return nil, errNone
	}
	for _, a := range m.has {
		if slices.Contains(preferred, a) {
			return []Address{a}, nil
		}
	}
	return m.has[:1], nil
}

// watch runs a Watcher of the machine in a bubble of synctest until ctx is done.
func watch(t *testing.T, m *machine, check func([]Address) error) (w *Watcher, ended chan error) {
	t.Helper()
	w = NewWatcher(filepath.Join(t.TempDir(), "addresses.json"))
	w.find = m.find
	if err := w.Find(pods, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- w.Run(ctx, func() { close(ready) }, check) }()
	<-ready
	t.Cleanup(func() { cancel(); synctest.Wait() })
	return w, ended
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestWatcher(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{has: at("192.0.2.7")}
		w, _ := watch(t, m, nil)
		changed := w.Changed()
		for _, step := range []struct {
			has     []Address
			want    string
			changes bool
		}{
			{at("192.0.2.7"), "192.0.2.7", false},
			{slices.Concat(at("192.0.2.9"), at("192.0.2.7")), "192.0.2.7", false},
			{nil, "192.0.2.7", false}, // the cable is out
			{at("192.0.2.9"), "192.0.2.9", true},
			{slices.Concat(at("192.0.2.7"), at("192.0.2.9")), "192.0.2.9", false},
			{at("192.0.2.7"), "192.0.2.7", true},
		} {
			m.has = step.has
			time.Sleep(2 * interval)
			synctest.Wait()
			if got := commas.Join(w.IPs()); got != step.want || isClosed(changed) != step.changes {
				t.Errorf("with %v: the node is at %s, want %s; a change is announced: %v", step.has, got, step.want, isClosed(changed))
			}
			changed = w.Changed()
			if got := commas.Join(ipsOf(remembered(w.file))); got != step.want {
				t.Errorf("with %v: %s is remembered", step.has, got)
			}
		}
		if got := commas.Join(w.FirstIPs()); got != "192.0.2.7" {
			t.Errorf("first was %s", got)
		}
	})
}

// TestWatcherOfAServer: an address that is in a certificate is preferred while any link
// has it, and what the check says ends the watch.
func TestWatcherOfAServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		checks := 0
		m := &machine{has: at("192.0.2.7")}
		w, ended := watch(t, m, func(found []Address) error {
			if checks++; found[0].IP == netip.MustParseAddr("192.0.2.10") {
				return errMoved
			}
			return nil
		})
		m.has = at("192.0.2.9")
		time.Sleep(2 * interval)
		m.has = slices.Concat(at("192.0.2.9"), at("192.0.2.7"))
		time.Sleep(2 * interval)
		synctest.Wait()
		if got := commas.Join(w.IPs()); got != "192.0.2.7" || checks < 2 {
			t.Errorf("its first address is back, and it is at %s after %d checks", got, checks)
		}
		m.has = at("192.0.2.10")
		if err := <-ended; !errors.Is(err, errMoved) {
			t.Errorf("ended with %v", err)
		}
	})
}

var errMoved = errors.New("moved")

// TestWatcherOfAServerAnnouncesNoMove: a server that has moved ends, and until then the
// node beside it tells nobody of an address at which the server does not answer. One that
// is found once only, as links come up in no order, is nothing at all.
func TestWatcherOfAServerAnnouncesNoMove(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{has: at("192.0.2.7")}
		w, ended := watch(t, m, func(found []Address) error {
			if found[0].IP != netip.MustParseAddr("192.0.2.7") {
				return errMoved
			}
			return nil
		})
		changed := w.Changed()
		for i := range 100 {
			m.has = at([]string{"192.0.2.7", "192.0.2.9", "192.0.2.10"}[i%3])
			time.Sleep(interval)
			synctest.Wait()
			if len(ended) > 0 || isClosed(changed) {
				t.Fatalf("at tick %d: ended is %t, announced is %t", i, len(ended) > 0, isClosed(changed))
			}
		}
		m.has = at("192.0.2.9")
		if err := <-ended; !errors.Is(err, errMoved) {
			t.Errorf("ended with %v", err)
		}
		if got := commas.Join(w.IPs()); got != "192.0.2.7" || isClosed(changed) {
			t.Errorf("the node is at %s, and a change is announced: %t", got, isClosed(changed))
		}
	})
}

// TestWatcherOfGivenAddresses never asks the machine, nor writes a file.
func TestWatcherOfGivenAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := Given(netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7"))
		if err := w.Find(pods, nil); err != nil || w.MayChange() {
			t.Errorf("%v, may change: %v", err, w.MayChange())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := w.Run(ctx, func() {}, func([]Address) error { return errors.New("asked") }); err != nil {
			t.Error(err)
		}
		if got := commas.Join(w.IPs()); got != "192.0.2.7,2001:db8::7" {
			t.Errorf("the node is at %s", got)
		}
	})
}

// TestWatcherWithoutRoom: a full disk costs the memory of the addresses, not the node.
func TestWatcherWithoutRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &machine{has: at("192.0.2.7")}
		w, ended := watch(t, m, nil)
		w.file = filepath.Join("/proc", "nowhere", "addresses.json")
		m.has = at("192.0.2.9")
		time.Sleep(2 * interval)
		synctest.Wait()
		if got := commas.Join(w.IPs()); got != "192.0.2.9" || len(ended) > 0 {
			t.Errorf("the node is at %s, ended: %d", got, len(ended))
		}
	})
}

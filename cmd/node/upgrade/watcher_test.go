package upgrade

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brink/internal/layout"
	"brink/internal/testerror"
	"brink/internal/testtree"
	"brink/server/snapshot"
)

// fakeService is brink's service as a service manager has it.
type fakeService struct {
	starts, stops int
	isStopped     bool
}

func (s *fakeService) Start(context.Context) error          { s.starts++; return nil }
func (s *fakeService) Stop(context.Context) error           { s.stops++; return nil }
func (s *fakeService) IsStopped(context.Context) bool       { return s.isStopped }
func (s *fakeService) Restarts(context.Context) (int, bool) { return 0, true }

var (
	oldState = snapshot.State{Version: "v1.36.3+brink.1", Kubernetes: "v1.36.3", Format: snapshot.StateFormat}
	newState = snapshot.State{Version: "v1.36.3+brink.2", Kubernetes: "v1.36.3", Format: snapshot.StateFormat}
	farState = snapshot.State{Version: "v1.37.0+brink.1", Kubernetes: "v1.37.0", Format: snapshot.StateFormat}
)

// newWatcher returns a watcher in a phase, with the binaries of that phase and a state that was
// used last by a brink.
func newWatcher(t *testing.T, phase Phase, used snapshot.State) (*watcher, *fakeService) {
	t.Helper()
	bin := testtree.Make(t, map[string]string{".brink.watcher": "old", "brink.previous": "older", "data/": ""})
	binary, l := filepath.Join(bin, "brink"), layout.New(filepath.Join(bin, "data"))
	var err error
	if phase == Replacing {
		testtree.Fill(t, bin, map[string]string{".brink.new": "new"})
		err = os.Link(programOf(binary), binary)
	} else {
		testtree.Fill(t, bin, map[string]string{"brink": "new"})
	}
	if err == nil {
		err = used.Use(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	service := &fakeService{}
	r := Record{Phase: phase, From: oldState.Version, To: used.Version, Binary: binary, DataDir: l.Data(), Begun: time.Now()}
	return &watcher{Record: r, layout: l, service: service, own: oldState, patience: time.Millisecond, log: slog.New(slog.DiscardHandler)}, service
}

// wantFiles wants files beside the binary to have a content, empty for none.
func (w *watcher) wantFiles(t *testing.T, want map[string]string) {
	t.Helper()
	for name, content := range want {
		got, _ := os.ReadFile(filepath.Join(filepath.Dir(w.Binary), name))
		if string(got) != content {
			t.Errorf("%s has %q, want %q", name, got, content)
		}
	}
}

// The old version starts from what the new one leaves without a snapshot of it.
func TestReturnWithinAMinorVersion(t *testing.T) {
	t.Parallel()
	w, service := newWatcher(t, Returning, newState)
	if err := w.step(t.Context()); err != nil || w.Phase != Returned || service.starts != 1 {
		t.Errorf("%+v, %+v (%v)", w.Record, service, err)
	}
	w.wantFiles(t, map[string]string{"brink": "old"})
	if state, err := snapshot.ReadState(w.layout); err != nil || state != oldState {
		t.Errorf("%+v (%v)", state, err)
	}
}

// A version that could not use the state does not get its place back.
func TestNoReturnToWhatCannotStart(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(r *Record){
		"database elsewhere": func(r *Record) { r.Elsewhere = true },
		"no snapshot":        func(r *Record) { r.NoSnapshot = true },
		"not a snapshot":     func(r *Record) { r.Snapshot = r.Binary },
	} {
		w, service := newWatcher(t, Returning, farState)
		change(&w.Record)
		if err := w.step(t.Context()); err != nil || w.Phase != Failed || service.starts != 1 {
			t.Errorf("%s: %+v, %+v (%v)", name, w.Record, service, err)
		}
		w.wantFiles(t, map[string]string{"brink": "new", ".brink.new": ""})
		got, err := Read(w.layout)
		if text := strings.Join(got.Lines(), "\n"); err != nil || got.Phase != Failed || !strings.Contains(text, "did not come back") || !strings.Contains(text, farState.Version+" stays: ") {
			t.Errorf("%s: %s (%v)", name, text, err)
		}
	}
}

// The new version's first start is told what the user has said.
func TestNoSnapshotIsHandedOn(t *testing.T) {
	t.Parallel()
	w, service := newWatcher(t, Replacing, oldState)
	w.To, w.NoSnapshot = newState.Version, true
	if err := w.step(t.Context()); err != nil || w.Phase != Watching || service.stops != 1 {
		t.Errorf("%+v, %+v (%v)", w.Record, service, err)
	}
	w.wantFiles(t, map[string]string{"brink": "new", "brink.previous": "old", ".brink.new": "", "data/upgrade/without-snapshot": newState.Version + "\n"})
}

// What is refused leaves the version before the old one, and the record has it before the new
// binary goes.
func TestRefused(t *testing.T) {
	t.Parallel()
	w, service := newWatcher(t, Replacing, oldState)
	w.NoSnapshot = true
	if err := os.MkdirAll(w.layout.NoSnapshot(), 0o700); err != nil { // so that it cannot be written
		t.Fatal(err)
	}
	if err := w.step(t.Context()); err != nil || w.Phase != Refused || service.starts != 1 {
		t.Errorf("%+v, %+v (%v)", w.Record, service, err)
	}
	w.wantFiles(t, map[string]string{"brink": "old", "brink.previous": "older", ".brink.new": "new"})
	if got, err := Read(w.layout); err != nil || got.Phase != Refused {
		t.Errorf("%+v (%v)", got, err)
	}
}

// A watcher that was killed goes on by what has its place, not by what is still there.
func TestRenamedBeforeAKill(t *testing.T) {
	t.Parallel()
	w, service := newWatcher(t, Replacing, oldState)
	if err := os.Remove(newOf(w.Binary)); err != nil {
		t.Fatal(err)
	}
	if err := w.step(t.Context()); err != nil || w.Phase != Refused || service.starts != 1 {
		t.Errorf("the new binary is gone: %+v (%v)", w.Record, err)
	}
	w, service = newWatcher(t, Watching, newState)
	w.Phase = Replacing
	if err := w.step(t.Context()); err != nil || w.Phase != Watching || service.stops != 0 {
		t.Errorf("renamed: %+v (%v)", w.Record, err)
	}
}

// A record that cannot be written does not keep the old version from coming back, and nobody
// stops brink again for it.
func TestReturnOnAFullDisk(t *testing.T) {
	t.Parallel()
	w, service := newWatcher(t, Watching, newState)
	if err := os.WriteFile(w.layout.Upgrade(), nil, 0o600); err != nil { // in the directory's place
		t.Fatal(err)
	}
	if err := w.enter(t.Context(), Returning, "it ended"); err != nil || w.Phase != Returning {
		t.Fatalf("%+v (%v)", w.Record, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	testerror.OneLine(t, w.step(ctx), "upgrade")
	if service.starts != 1 || service.stops != 1 || ctx.Err() == nil {
		t.Errorf("%+v", service)
	}
	w.wantFiles(t, map[string]string{"brink": "old"})
	w.Phase = Watching // as the record still says
	if err := os.Remove(w.layout.Upgrade()); err != nil {
		t.Fatal(err)
	}
	if err := w.step(t.Context()); err != nil || w.Phase != Returned {
		t.Errorf("the next watcher: %+v (%v)", w.Record, err)
	}
}

// What is lost is in the record before the states are exchanged, and a second pass keeps it.
func TestLossIsWrittenDownFirst(t *testing.T) {
	t.Parallel()
	w, _ := newWatcher(t, Returning, farState)
	kept := w.layout.Replaced("1")
	d := snapshot.Restored{Manifest: snapshot.Manifest{Revision: 10, Made: time.Unix(0, 0)}, Replaced: kept}
	if err := w.beforeExchange(d, 20); err != nil {
		t.Fatal(err)
	}
	w.wantFiles(t, map[string]string{"brink": "old", ".brink.new": "new"})
	if got, err := Read(w.layout); err != nil || got.Lost == nil || got.Lost.KeptIn != kept || got.Lost.UpTo != 20 {
		t.Fatalf("%+v (%v)", got.Lost, err)
	}
	if err := os.Rename(w.layout.Server(), kept); err != nil { // exchanged, and killed
		t.Fatal(err)
	}
	if err := oldState.Use(w.layout); err != nil {
		t.Fatal(err)
	}
	d.Replaced = w.layout.Replaced("2")
	if err := w.beforeExchange(d, 0); err != nil || w.Lost.KeptIn != kept {
		t.Errorf("%+v (%v)", w.Lost, err)
	}
	if err := w.step(t.Context()); err != nil || w.Phase != Returned || !strings.Contains(strings.Join(w.Lines(), "\n"), "is kept in "+kept) {
		t.Errorf("%+v (%v)", w.Record, err)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "brink")
	l, other := layout.New(t.TempDir()), layout.New(t.TempDir())
	one, two := &Hold{}, &Hold{}
	defer two.Close()
	if err := one.take(l, binary); err != nil {
		t.Fatal(err)
	}
	testerror.OneLine(t, two.take(l, filepath.Join(t.TempDir(), "brink")), "another brink upgrade is at work in "+l.Upgrade())
	two.Close()
	testerror.OneLine(t, two.take(other, binary), "another brink upgrade is at work in "+filepath.Dir(binary))
	two.Close()
	if err := (Record{Phase: Watching, DataDir: l.Data()}).write(l); err != nil {
		t.Fatal(err)
	}
	one.Close()
	testerror.OneLine(t, two.take(l, binary), "an upgrade is under way")
	testerror.OneLine(t, Start(t.Context(), l, Record{Binary: binary}), "an upgrade is under way")
}

// What is taken off the machine is not under way any more.
func TestAbandonEndsTheRecord(t *testing.T) {
	t.Parallel()
	for phase, want := range map[Phase]Phase{Replacing: Refused, Watching: Failed, Returning: Failed, Done: Done} {
		w, _ := newWatcher(t, phase, oldState)
		if err := w.abandon(w.layout); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(w.layout); phase != Done && (err != nil || got.Phase != want) {
			t.Errorf("%s: %+v (%v)", phase, got, err)
		}
	}
}

// A service that somebody has stopped says nothing about the new version.
func TestStoppedIsNoFailure(t *testing.T) {
	t.Parallel()
	w, service := newWatcher(t, Watching, newState)
	w.Service.Name = "brink.service"
	if s := w.see(t.Context(), newEnds(w)); s.outside != "" && s.outside != "this machine has no address" {
		t.Errorf("%+v", s)
	}
	service.isStopped = true
	if s := w.see(t.Context(), newEnds(w)); s.outside == "" {
		t.Errorf("%+v", s)
	}
}

// Whoever goes back because nothing runs needs no brink that runs.
func TestRollbackWhereNothingRuns(t *testing.T) {
	t.Parallel()
	w, _ := newWatcher(t, Done, newState)
	for path, version := range map[string]string{w.Binary: newState.Version, previousOf(w.Binary): oldState.Version} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho '{\"brink\":\""+version+"\"}'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.Service.Name = "brink.service"
	if err := w.write(w.layout); err != nil {
		t.Fatal(err)
	}
	hold := &Hold{}
	defer hold.Close()
	r, loses, err := Back{Layout: w.layout, Hold: hold}.Plan(t.Context())
	if err != nil || loses != nil || r.Phase != Returning || r.From != oldState.Version || r.To != newState.Version || r.Service != w.Service || r.Binary != w.Binary {
		t.Errorf("%+v %+v (%v)", r, loses, err)
	}
}

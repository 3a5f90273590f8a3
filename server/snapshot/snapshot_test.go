package snapshot

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/layout"
	"brink/internal/testdisk"
	"brink/internal/testerror"
	"brink/internal/testprocess"
)

func TestSave(t *testing.T) {
	t.Parallel()
	l, last := newServer(t, t.TempDir())
	to := save(t, l)
	info, err := os.Stat(to)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v (%v)", info.Mode(), err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := Check(l, f)
	if err != nil || m.Revision != last || m.State != own || m.Node != "hub" || m.Cluster == "" {
		t.Errorf("%+v (%v)", m, err)
	}
	if entries, err := os.ReadDir(l.Snapshots()); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	for _, c := range []struct{ path, want string }{
		{to, "is there already"},
		{filepath.Dir(to), "is a directory"},
		{filepath.Join(t.TempDir(), "no", "where"), "no such file"},
	} {
		_, err := Save(t.Context(), Source{Layout: l}, c.path)
		testerror.OneLine(t, err, c.want)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	_, err = Save(t.Context(), Source{Layout: l}, link)
	testerror.OneLine(t, err, "is a link")
}

// On a new card the state is that of the snapshot, and revisions go on above all that were
// handed out after it.
func TestRestoreOnANewCard(t *testing.T) {
	t.Parallel()
	l, _ := newServer(t, t.TempDir())
	file := save(t, l)
	later := write(t, l, "/registry/pods/later")
	fresh := layout.New(filepath.Join(t.TempDir(), "card"))
	if err := os.Mkdir(fresh.Data(), 0o755); err != nil {
		t.Fatal(err)
	}
	done, err := Restore{Layout: fresh, File: file, Own: own}.Run(t.Context())
	if err != nil || done.Replaced != "" {
		t.Fatal(done, err)
	}
	for _, path := range []string{fresh.ServerToken(), fresh.Cert(layout.ServerCA), fresh.Key(layout.ClientCA), fresh.StateVersion()} {
		before := filepath.Join(l.Data(), mustRel(fresh, path))
		if a, b := read(t, before), read(t, path); a != b {
			t.Errorf("%s differs", path)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", path, info.Mode(), err)
		}
	}
	c, stop := run(t, fresh)
	defer stop()
	if !has(t, c, "/registry/pods/old") || has(t, c, "/registry/pods/later") {
		t.Error("the state is another")
	}
	if first := put(t, c, "/registry/pods/new"); first <= later+1<<20 {
		t.Errorf("revision %d after %d was handed out", first, later)
	}
	w := <-c.Watch(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithRev(later+1))
	if w.CompactRevision <= later {
		t.Errorf("a watch of before goes on: %+v", w)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRestoreReplaces(t *testing.T) {
	t.Parallel()
	l, _ := newServer(t, t.TempDir())
	file := save(t, l)
	write(t, l, "/registry/pods/later")
	driver := filepath.Join(l.VolumePlugins(), "driver")
	if err := os.MkdirAll(l.VolumePlugins(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(driver, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Restore{Layout: l, File: file, Own: own}.Run(t.Context())
	testerror.OneLine(t, err, "give --replace")
	done, err := Restore{Layout: l, File: file, Own: own, Replace: true}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if read(t, driver) != "#!" {
		t.Error("what is the user's has gone away with the state")
	}
	for db, want := range map[string]bool{l.Data(): false, "": true} {
		at := l
		if db == "" { // what was kept aside is a whole state
			at = layout.New(t.TempDir())
			if err := os.Rename(done.Replaced, at.Server()); err != nil {
				t.Fatal(err)
			}
		}
		c, stop := run(t, at)
		if got := has(t, c, "/registry/pods/later"); got != want {
			t.Errorf("%s: later is there: %v", at.Data(), got)
		}
		stop()
	}
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	l, _ := newServer(t, t.TempDir())
	file := save(t, l)
	whole := read(t, file)
	agent := t.TempDir()
	if err := os.MkdirAll(layout.New(agent).Agent(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(layout.New(agent).ClusterCA(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	photos := t.TempDir()
	if err := os.WriteFile(filepath.Join(photos, "1.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	linked := t.TempDir()
	if err := os.Symlink(t.TempDir(), layout.New(linked).Server()); err != nil {
		t.Fatal(err)
	}
	flipped := []byte(whole)
	flipped[len(flipped)/2] ^= 4
	for _, c := range []struct {
		name, content, dir string
		own                State
		want               string
	}{
		{"none", "photos", "", own, "is not a snapshot of brink"},
		{"empty", "", "", own, "is not a snapshot of brink"},
		{"cut short", whole[:len(whole)-500], "", own, "cut short"},
		{"a bit", string(flipped), "", own, "damaged"},
		{"an older brink", whole, "", State{Version: "old", Kubernetes: "v1.35.9"}, "may not be able to read"},
		{"one that skips", whole, "", State{Version: "new", Kubernetes: "v1.38.0"}, "start a brink with 1.37 first"},
		{"an agent", whole, agent, own, "that of an agent"},
		{"somebody else's", whole, photos, own, "1.jpg"},
		{"a link", whole, linked, own, "is a link"},
	} {
		dir := c.dir
		if dir == "" {
			dir = t.TempDir()
		}
		t.Run(c.name, func(t *testing.T) { restoreRefuses(t, layout.New(dir), c.content, c.own, c.want) })
	}
}

// restoreRefuses has a file with this content restored into a directory, which is refused and
// leaves nothing there.
func restoreRefuses(t *testing.T, l layout.Layout, content string, own State, want string) {
	path := filepath.Join(t.TempDir(), "a.tar.zst")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Restore{Layout: l, File: path, Own: own}.Run(t.Context())
	testerror.OneLine(t, err, want)
	if hasState(l) {
		t.Error("there is a state now")
	}
	if _, err := os.Lstat(l.Restoring()); err == nil {
		t.Error("half a state is left")
	}
}

// Killed at any moment, a restore leaves the whole old state or the whole new one.
func TestRestoreKilled(t *testing.T) {
	if arg := testprocess.Argument(); arg != "" {
		dir, file, _ := strings.Cut(arg, ":")
		_, err := Restore{Layout: layout.New(dir), File: file, Own: own, Replace: true}.Run(t.Context())
		fmt.Println("done", err)
		return
	}
	t.Parallel()
	l, _ := newServer(t, t.TempDir())
	c, stop := run(t, l)
	for i := range 300 {
		put(t, c, fmt.Sprintf("/registry/pods/%d", i))
	}
	stop()
	file := save(t, l)
	write(t, l, "/registry/pods/later")
	isNew := 0
	for i := range 12 {
		cmd := testprocess.Again(t, l.Data()+":"+file)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		awaitStaging(l)
		time.Sleep(time.Duration(i) * 15 * time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		c, stop := run(t, l)
		isOld := has(t, c, "/registry/pods/later")
		if !has(t, c, "/registry/pods/299") {
			t.Fatal("neither the old nor the new state is there")
		}
		if !isOld {
			isNew++
			put(t, c, "/registry/pods/later")
		}
		stop()
	}
	t.Logf("%d of 12 restores were done before the kill", isNew)
}

// awaitStaging waits until a restore has begun to unpack.
func awaitStaging(l layout.Layout) {
	for range 2000 {
		if _, err := os.Lstat(l.Restoring()); err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A full disk leaves no part of a snapshot, and no part of a restored state.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := testdisk.NewDisk(t, 24<<20)
	l, _ := newServer(t, filepath.Join(disk.Dir, "data"))
	file := save(t, l)
	filler := filepath.Join(disk.Dir, "filler")
	fill(t, filler)
	_, err := Save(t.Context(), Source{Layout: l}, filepath.Join(t.TempDir(), "b.tar.zst"))
	testerror.OneLine(t, err, "full")
	_, err = Restore{Layout: l, File: file, Own: own, Replace: true}.Run(t.Context())
	testerror.OneLine(t, err, "needs more than the 0 MiB")
	for _, path := range []string{l.Restoring(), l.SnapshotCopy()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	write(t, l, "/registry/pods/after")
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err := error(nil); err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
}

// The snapshot before the first start of another version is made once for each state, and the
// last three stay.
func TestBegin(t *testing.T) {
	t.Parallel()
	l, _ := newServer(t, t.TempDir())
	begin := func(version, kubernetes string) error {
		return Start{Layout: l, Own: State{version, kubernetes, StateFormat}, Node: "hub", Log: slog.New(slog.DiscardHandler)}.Begin(t.Context())
	}
	count := func() int {
		list, err := List(l)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if err := begin(own.Version, own.Kubernetes); err != nil || count() != 0 {
		t.Fatalf("the same version: %v, %d snapshots", err, count())
	}
	if _, err := Automatic(t.Context(), Source{Layout: l, Before: "v1.36.3+brink.2"}); err != nil || count() != 1 {
		t.Fatalf("by an upgrade: %v, %d snapshots", err, count())
	}
	if err := begin("v1.36.3+brink.2", "v1.36.3"); err != nil || count() != 1 {
		t.Fatalf("the start after it: %v, %d snapshots", err, count())
	}
	for i := 3; i < 8; i++ {
		write(t, l, fmt.Sprintf("/registry/pods/%d", i))
		if err := begin(fmt.Sprintf("v1.36.3+brink.%d", i), "v1.36.3"); err != nil {
			t.Fatal(err)
		}
	}
	list, err := List(l)
	if err != nil || len(list) != keptAutomatic || list[2].State.Version != "v1.36.3+brink.6" || list[2].Before != "v1.36.3+brink.7" {
		t.Errorf("%+v (%v)", list, err)
	}
	testerror.OneLine(t, begin("v1.35.1+brink.1", "v1.35.1"), "may not be able to read")
	testerror.OneLine(t, begin("v1.38.0+brink.1", "v1.38.0"), "start a brink with 1.37 first")
	if state, err := ReadState(l); err != nil || state.Version != "v1.36.3+brink.7" {
		t.Errorf("%+v (%v)", state, err)
	}
	if found, ok, err := FindBefore(l, "v1.36.3+brink.5"); !ok || err != nil || found.Before != "v1.36.3+brink.6" {
		t.Errorf("%+v (%v)", found, err)
	}
}

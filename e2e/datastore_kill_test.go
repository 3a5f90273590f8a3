package e2e

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	_ "github.com/mattn/go-sqlite3" // to look into the database with other eyes than brink's
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
)

// acknowledged are the objects whose creation the API server has confirmed.
type acknowledged struct {
	mu    sync.Mutex
	names []string
}

func (a *acknowledged) add(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names = append(a.names, name)
}

func (a *acknowledged) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.names)
}

// write creates ConfigMaps until one fails.
func (a *acknowledged) write(n *node, prefix string) {
	maps := n.Client.CoreV1().ConfigMaps("default")
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s-%d", prefix, i)
		_, err := maps.Create(context.Background(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name},
		}, metav1.CreateOptions{})
		if err != nil {
			return
		}
		a.add(name)
	}
}

// verify looks for every object with its content.
func (a *acknowledged) verify(t *testing.T, n *node) {
	t.Helper()
	list, err := n.Client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{}
	for _, m := range list.Items {
		there[m.Name] = m.Data["name"]
	}
	for _, name := range a.names {
		if there[name] != name {
			t.Errorf("%s was acknowledged and is %q after the kill", name, there[name])
		}
	}
}

// TestKillDuringWrites kills brink in the middle of a stream of creates, several
// times at different depths.
func TestKillDuringWrites(t *testing.T) {
	t.Parallel()
	n := prepareNode(t, "disable-agent: true")
	acked := &acknowledged{}
	for round, depth := range []int{20, 1, 150, 60} {
		if err := n.StartControlPlane(); err != nil {
			t.Fatal(err)
		}
		acked.verify(t, n)
		var writers sync.WaitGroup
		target := acked.count() + depth
		for w := range 4 {
			writers.Go(func() { acked.write(n, fmt.Sprintf("round-%d-writer-%d", round, w)) })
		}
		if err := n.Await("acknowledged writes", func() error {
			if got := acked.count(); got < target {
				return fmt.Errorf("%d of %d", got, target)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		writers.Wait()
	}
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	acked.verify(t, n)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.mustBeSound(t)
	t.Logf("%d acknowledged objects survived 4 kills", acked.count())
}

// mustBeSound asks SQLite itself about the database of a stopped node: it must be
// whole, and hold nothing of what changes all the time and means nothing after a
// power cut. The test looks at a copy: SQLite resolves links, and /proc/PID/root
// is one.
func (n *node) mustBeSound(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	files, err := filepath.Glob(filepath.Join(n.Inside(n.Layout().DB()), "state.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of a database: %v", len(files), err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open("sqlite3", filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity_check: %s (%v)", verdict, err)
	}
	var durable, volatile int
	err = db.QueryRow(`SELECT
		(SELECT count(*) FROM kine WHERE name LIKE '/registry/namespaces/%'),
		(SELECT count(*) FROM kine WHERE name LIKE '/registry/leases/%' OR name LIKE '/registry/events/%')`).Scan(&durable, &volatile)
	if err != nil || durable == 0 || volatile != 0 {
		t.Errorf("the database has %d rows of namespaces and %d of leases and events, want some and none (%v)", durable, volatile, err)
	}
}

func (n *node) create(name string) error {
	_, err := n.Client.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name},
	}, metav1.CreateOptions{})
	return err
}

// TestRevisionsGoOn: a client that watches comes back after restarts by itself,
// and versions never run backwards, not even those of leases, which live in memory.
func TestRevisionsGoOn(t *testing.T) {
	t.Parallel()
	n := prepareNode(t, "disable-agent: true")
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	factory := informers.NewSharedInformerFactoryWithOptions(n.Client, 0, informers.WithNamespace("default"))
	maps := factory.Core().V1().ConfigMaps().Lister().ConfigMaps("default")
	factory.Start(ctx.Done())
	before := n.createLease(t, "before")
	if err := errors.Join(n.create("before"), n.Stop(), n.StartControlPlane()); err != nil {
		t.Fatal(err)
	}
	kept, err := n.Client.CoordinationV1().Leases("default").Get(ctx, "before", metav1.GetOptions{})
	if err != nil || kept.ResourceVersion != before.ResourceVersion {
		t.Errorf("after an orderly restart the lease has version %q, want %q (%v)", kept.ResourceVersion, before.ResourceVersion, err)
	}
	between := n.createLease(t, "between")
	if err := errors.Join(n.create("between"), n.Kill(), n.StartControlPlane(), n.create("after")); err != nil {
		t.Fatal(err)
	}
	after := n.createLease(t, "after")
	for _, pair := range [][2]*coordinationv1.Lease{{before, between}, {between, after}} {
		if revision(t, pair[0]) >= revision(t, pair[1]) {
			t.Errorf("the lease %s has version %s, one made later has %s", pair[0].Name, pair[0].ResourceVersion, pair[1].ResourceVersion)
		}
	}
	for _, name := range []string{"before", "between", "after"} {
		if err := n.Await("the client to know of "+name, func() error {
			_, err := maps.Get(name)
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

func (n *node) createLease(t *testing.T, name string) *coordinationv1.Lease {
	t.Helper()
	lease, err := n.Client.CoordinationV1().Leases("default").Create(t.Context(),
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func revision(t *testing.T, obj metav1.Object) uint64 {
	t.Helper()
	r, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

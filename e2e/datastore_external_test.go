package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/testdatabase"
)

// away is how long a database is gone, longer than the tries of any request;
// shortly is for the second time.
const away, shortly = 30 * time.Second, 8 * time.Second

// muchSaid bounds the lines in the log of an outage. There are 2, and room for what
// a busy machine may have to say.
const muchSaid = 10

// database is a PostgreSQL or MariaDB on a node's machine.
type database struct {
	*testdatabase.Server
	node *node
}

// newDatabaseNode prepares a node that keeps its state in a database of its own on
// the same machine. The database does not run yet.
func newDatabaseNode(t *testing.T, kind testdatabase.Kind, port int, config ...string) *database {
	t.Helper()
	n := prepareNode(t, config...)
	db := &database{node: n, Server: &testdatabase.Server{
		Kind: kind, Dir: filepath.Join(n.Dir, "db"), Listen: fmt.Sprintf("%s:%d", n.Addr, port),
		Command: func(argv ...string) *exec.Cmd { return n.Command(context.Background(), argv...) },
	}}
	t.Cleanup(func() { // before the node is uninstalled, to which its processes are foreign
		if n.Running() {
			if err := n.Stop(); err != nil {
				t.Error(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Init(); err != nil {
		t.Fatal(err)
	}
	n.Config = append(n.Config, "datastore-endpoint: "+db.Endpoint("cluster"))
	if err := n.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	return db
}

// waitsAtStart starts brink before its database.
func (db *database) waitsAtStart(t *testing.T, announced string) {
	t.Helper()
	n := db.node
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := n.Await("a line about the database", func() error { return n.Says("err", "the database is not there yet") }); err != nil {
		t.Fatal(err)
	}
	n.tellsAway(t)
	if made, _ := filepath.Glob(filepath.Join(n.Layout().TLS(), "*")); len(made) > 0 {
		t.Errorf("before the database was reached there is %v", made)
	}
	if err := db.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.Await(announced, func() error { return n.Says("out", announced) }); err != nil {
		t.Fatal(err)
	}
	if err := n.ConnectClient(); err != nil {
		t.Fatal(err)
	}
}

// tellsAway checks what brink status says while the database is away.
func (n *node) tellsAway(t *testing.T) {
	t.Helper()
	if err := n.Await("brink status to tell that the database is away", func() error {
		r, err := n.Status()
		if err != nil || r.Code == 0 || !strings.Contains(r.Stdout, "is away (since ") {
			return fmt.Errorf("brink status: %v %v", err, r)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// outage takes the database away for a while. What was acknowledged is there
// afterwards, and what goes on by itself goes on.
func (db *database) outage(t *testing.T, name string, leave func() error, away time.Duration, acked *acknowledged) {
	t.Helper()
	n := db.node
	begun := n.logSize(t)
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		acked.write(n, name)
	}()
	time.Sleep(time.Second)
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	left := time.Now()
	<-writing
	n.tellsAway(t)
	if err := n.create(name + "-refused"); err == nil {
		t.Error("a write is acknowledged without a database")
	}
	time.Sleep(away - time.Since(left))
	if err := db.Start(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	if err := n.Await("writing to go on", func() error { return n.create(name + "-after") }); err != nil {
		t.Fatal(err)
	}
	took := time.Since(back)
	t.Logf("%s: writing goes on %v after the return", name, took.Round(10*time.Millisecond))
	if took > writesBack {
		t.Errorf("%s: writing goes on later than %v", name, writesBack)
	}
	acked.add(name + "-after")
	acked.verify(t, n)
	n.saysLittle(t, begun)
}

func (n *node) logSize(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(n.LogFile("err", n.Starts))
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// saysLittle wants one line about the loss and one about the return, and a bound
// for all that the node's parts have to say about it.
func (n *node) saysLittle(t *testing.T, from int64) {
	t.Helper()
	var text []byte
	if err := n.Await("a line about the return", func() (err error) {
		if text, err = os.ReadFile(n.LogFile("err", n.Starts)); err != nil {
			return err
		}
		return contains(string(text[from:]), "the database is back")
	}); err != nil {
		t.Error(err)
	}
	said := string(text[from:])
	for _, line := range []string{"requests are refused until it is back", "the database is back"} {
		if count := strings.Count(said, line); count != 1 {
			t.Errorf("%q is said %d times", line, count)
		}
	}
	if count := strings.Count(said, "\n"); count > muchSaid {
		t.Errorf("an outage makes %d lines, want 2 and at most %d of other matters:\n%s", count, muchSaid-2, said)
	}
	if strings.Contains(string(text), testdatabase.Password) {
		t.Error("the password is in the log")
	}
}

// writesBack and podsBack are how long after a database's return it may take until a
// write is acknowledged, and until every node runs a new pod.
const (
	writesBack = 5 * time.Second
	podsBack   = 35 * time.Second
)

// TestPostgres is a cluster whose state is in PostgreSQL.
func TestPostgres(t *testing.T) {
	t.Parallel()
	db := newDatabaseNode(t, testdatabase.Postgres, 5432)
	n := db.node
	db.waitsAtStart(t, "node "+n.ID+" is Ready")
	c := &cluster{server: n}
	c.agents = c.join(t, 1)
	ns := newNamespace(t, n)
	ns.apply(sleeper("before", ""))
	before := ns.readyPod("before")
	acked := &acknowledged{}
	for _, leave := range []struct {
		name string
		how  func() error
		away time.Duration
	}{{"stopped", db.Stop, away}, {"killed", db.Kill, shortly}} {
		db.outage(t, leave.name, leave.how, leave.away, acked)
		back := time.Now()
		for i, on := range c.nodes() { // each node's watch goes on
			name := fmt.Sprintf("%s-%d", leave.name, i)
			ns.apply(sleeper(name, "  nodeName: "+on.ID))
			ns.readyPod(name)
		}
		took := time.Since(back)
		t.Logf("%s: new pods on all nodes run %v after the return", leave.name, took.Round(10*time.Millisecond))
		if took > podsBack {
			t.Errorf("%s: new pods run later than %v", leave.name, podsBack)
		}
	}
	ns.mustEqual("the container from before", containerID(ns.pod("before")), containerID(before))
	db.isItsOwn(t, "cluster")
}

// isItsOwn: a database in use, and that of another cluster, are refused, and
// nothing is made then.
func (db *database) isItsOwn(t *testing.T, name string) {
	t.Helper()
	second := prepareNode(t, "disable-agent: true", "datastore-endpoint: "+db.Endpoint(name))
	tls := second.Layout().TLS()
	second.refuses(t, "there is no CA in "+tls, "restore")
	if made, _ := filepath.Glob(filepath.Join(tls, "*")); len(made) > 0 {
		t.Errorf("a refused server has made %v", made)
	}
	if err := os.MkdirAll(tls, 0o700); err != nil {
		t.Fatal(err)
	}
	other := newCA(t, time.Now())
	if err := os.WriteFile(filepath.Join(tls, "server-ca.crt"), other.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	second.refuses(t, "is that of another cluster", "restore")
	if err := errors.Join(os.RemoveAll(tls), os.CopyFS(tls, os.DirFS(db.node.Layout().TLS()))); err != nil {
		t.Fatal(err)
	}
	second.refuses(t, "in use by the server of node "+db.node.ID)
	if err := db.node.create("goes-on"); err != nil {
		t.Error(err)
	}
	startsElsewhere(t, db.Endpoint(name))
}

// TestMariaDB is a control plane whose state is in MariaDB.
func TestMariaDB(t *testing.T) {
	t.Parallel()
	db := newDatabaseNode(t, testdatabase.MariaDB, 3306, "disable-agent: true")
	n := db.node
	const announced = "control plane is Ready"
	db.waitsAtStart(t, announced)
	acked := &acknowledged{}
	db.outage(t, "stopped", db.Stop, away, acked)
	db.outage(t, "killed", db.Kill, shortly, acked)

	// The server that was killed does not wait for its own hold.
	if err := errors.Join(n.Kill(), n.StartControlPlane()); err != nil {
		t.Fatal(err)
	}
	if err := n.Says("err", "another server may hold"); err == nil {
		t.Error("the server waited for itself")
	}
	acked.verify(t, n)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := db.SQL("cluster", "ALTER TABLE kine MODIFY name VARCHAR(630) CHARACTER SET ascii COLLATE ascii_general_ci"); err != nil {
		t.Fatal(err)
	}
	const cure = "ALTER TABLE kine MODIFY name VARCHAR(630) CHARACTER SET ascii COLLATE ascii_bin;"
	n.refuses(t, "does not tell upper from lower case", cure)
	if err := db.SQL("cluster", cure); err != nil {
		t.Fatal(err)
	}
	db.goesDuringStart(t, announced)
	acked.verify(t, n)
	db.tellsCase(t)
}

// duringStart is longer than upstream's API server waits, right after its start, for what
// it does once.
const duringStart = 75 * time.Second

// goesDuringStart takes the database away while the API server begins to use it. The
// process goes on, and so does its start.
func (db *database) goesDuringStart(t *testing.T, announced string) {
	t.Helper()
	n := db.node
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	socket := n.Inside(filepath.Join(n.Layout().DatastoreDir(), "durable.sock"))
	if err := n.Await("the datastore", func() error {
		_, err := os.Stat(socket)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(duringStart)
	if !n.Running() {
		t.Fatal("the process has ended without its database")
	}
	if err := db.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.Await(announced, func() error { return n.Says("out", announced) }); err != nil {
		t.Fatal(err)
	}
	if err := n.ConnectClient(); err != nil {
		t.Fatal(err)
	}
}

// tellsCase: two objects whose names differ in case are two.
func (db *database) tellsCase(t *testing.T) {
	t.Helper()
	roles := db.node.Client.RbacV1().ClusterRoles()
	for _, name := range []string{"e2e:Case", "e2e:case"} {
		if _, err := roles.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
	if err := roles.Delete(t.Context(), "e2e:Case", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := roles.Get(t.Context(), "e2e:case", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// TestEtcd is a control plane on an etcd that is not brink's. The API server is
// its client; what brink says of it, and to others, is the same.
func TestEtcd(t *testing.T) {
	t.Parallel()
	db := newDatabaseNode(t, testdatabase.Etcd, 2379, "disable-agent: true")
	n := db.node
	db.waitsAtStart(t, "control plane is Ready")
	acked := &acknowledged{}
	db.outage(t, "killed", db.Kill, away, acked)
	db.isItsOwn(t, "")
	acked.verify(t, n)
}

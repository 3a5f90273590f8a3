package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // to look into the database with other eyes than brink's
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
)

// acknowledged are the objects of which the API server said that they exist.
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
	maps := n.client.CoreV1().ConfigMaps("default")
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
	list, err := n.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
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
	n := prepareNode(t, "disable-agent: true")
	acked := &acknowledged{}
	for round, depth := range []int{20, 1, 150, 60} {
		if err := n.startControlPlane(); err != nil {
			t.Fatal(err)
		}
		acked.verify(t, n)
		var writers sync.WaitGroup
		target := acked.count() + depth
		for w := range 4 {
			writers.Go(func() { acked.write(n, fmt.Sprintf("round-%d-writer-%d", round, w)) })
		}
		if err := n.await("acknowledged writes", func() error {
			if got := acked.count(); got < target {
				return fmt.Errorf("%d of %d", got, target)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := n.kill(); err != nil {
			t.Fatal(err)
		}
		writers.Wait()
	}
	if err := n.startControlPlane(); err != nil {
		t.Fatal(err)
	}
	acked.verify(t, n)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.mustBeSound(t)
	t.Logf("%d acknowledged objects survived 4 kills", acked.count())
}

// mustBeSound asks SQLite itself about the database of a stopped node. It looks
// at a copy: SQLite resolves links, and /proc/PID/root is one.
func (n *node) mustBeSound(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	files, err := filepath.Glob(filepath.Join(n.inside(n.layout().DB()), "state.db*"))
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
}

// newNodeOnDisk is a control plane whose data directory is on a small file
// system of its own. Its loop device goes with the machine's mounts.
func newNodeOnDisk(t *testing.T, megabytes int) *node {
	t.Helper()
	m, err := newMachine()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(m.dir, "disk")
	m.data = filepath.Join(disk, "data")
	n := newNodeOn(m, "disable-agent: true")
	n.closeAfter(t)
	for _, argv := range [][]string{
		{"truncate", fmt.Sprintf("--size=%dM", megabytes), disk + ".img"},
		{"mkfs.ext4", "-q", "-m", "0", disk + ".img"},
		{"mkdir", disk},
		{"mount", "-o", "loop", disk + ".img", disk},
	} {
		if err := m.holder.run(argv...); err != nil {
			t.Fatal(err)
		}
	}
	m.mounts[disk] = true
	// The janitor must know the new place too.
	if err := errors.Join(theJanitor.add(m), n.writeConfig()); err != nil {
		t.Fatal(err)
	}
	return n
}

// fill writes until the disk is full and returns what frees it again.
func (n *node) fill(t *testing.T) (free func()) {
	t.Helper()
	path := n.inside(filepath.Join(filepath.Dir(n.data), "filler"))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 1 << 12, 1} {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		err = f.Sync()
	}
	_ = f.Close()
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	n := newNodeOnDisk(t, 96)
	if err := n.startControlPlane(); err != nil {
		t.Fatal(err)
	}
	acked := &acknowledged{}
	free := n.fill(t)
	acked.write(n, "small") // what the database had room for, until it has none
	if err := n.await("a line about the full disk", func() error { return n.says("err", "disk full at ") }); err != nil {
		t.Fatal(err)
	}
	acked.verify(t, n) // reading goes on
	r, err := n.brink("status", "--data-dir", n.data)
	if err != nil || r.code == 0 || !strings.Contains(r.stdout, "disk full at ") {
		t.Errorf("brink status on a full disk: %v %v", err, r)
	}

	free()
	if err := n.await("writing to go on", func() error { return n.create("after") }); err != nil {
		t.Fatal(err)
	}
	acked.add("after")
	acked.verify(t, n)
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.mustBeSound(t)

	free = n.fill(t)
	n.refuses(t, "disk is full")
	free()
	if err := n.startControlPlane(); err != nil {
		t.Fatal(err)
	}
	acked.verify(t, n)
}

func (n *node) create(name string) error {
	_, err := n.client.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"name": name},
	}, metav1.CreateOptions{})
	return err
}

// refuses expects that a start ends by itself with an error: one line about each
// of the wanted texts, and no stack.
func (n *node) refuses(t *testing.T, wanted ...string) {
	t.Helper()
	if err := n.launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.exited:
	case <-time.After(patience):
		t.Fatalf("brink started, want a refusal with %q\n%s", wanted, n.logTail())
	}
	n.mustSay(t, tail(n.logFile("err", n.starts), 64<<10), n.cmd.ProcessState.ExitCode(), wanted...)
}

// mustSay checks how a refused command ended.
func (n *node) mustSay(t *testing.T, stderr string, code int, wanted ...string) {
	t.Helper()
	var wrong []string
	if code <= 0 {
		wrong = append(wrong, fmt.Sprintf("the exit code is %d", code))
	}
	if strings.Contains(stderr, "goroutine ") || strings.Contains(stderr, "panic:") {
		wrong = append(wrong, "a stack trace instead of an error")
	}
	var said []string
	for _, line := range lines(stderr) {
		if strings.HasPrefix(line, "brink: ") {
			said = append(said, line)
		}
	}
	if len(said) != 1 {
		wrong = append(wrong, fmt.Sprintf("%d lines of error instead of one", len(said)))
	}
	for _, text := range wanted {
		if !strings.Contains(strings.Join(said, "\n"), text) {
			wrong = append(wrong, fmt.Sprintf("%q is not in the error", text))
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%s:\n%s", strings.Join(wrong, "; "), stderr)
	}
}

func TestDamagedDatabase(t *testing.T) {
	n := prepareNode(t, "disable-agent: true")
	if err := n.startControlPlane(); err != nil {
		t.Fatal(err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(n.layout().DB(), "state.db")
	damage(t, db)
	before := hash(t, db)
	n.refuses(t, "state.db", "damaged")
	if hash(t, db) != before {
		t.Error("the damaged database was overwritten")
	}

	n.config = append(n.config, "datastore-set-aside-damaged: true")
	if err := n.writeConfig(); err != nil {
		t.Fatal(err)
	}
	if err := n.startControlPlane(); err != nil {
		t.Fatal(err)
	}
	kept, err := filepath.Glob(db + "?*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range kept {
		if hash(t, path) == before {
			return
		}
	}
	t.Errorf("the damaged database is not kept among %v", kept)
}

// damage overwrites pages behind the header, as a dying flash card does.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 16<<10), 4<<10); err != nil {
		t.Fatal(err)
	}
}

func hash(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// TestRefusedStarts: what is wrong, where, and nothing was begun.
func TestRefusedStarts(t *testing.T) {
	n := prepareNode(t)
	added := fmt.Sprintf("%s:%d", n.configFile(), len(n.config)+1)
	for _, tc := range []struct {
		name   string
		config string
		args   []string
		want   []string
	}{
		{"unknown flag", "", []string{"--no-such-flag"}, []string{"no-such-flag"}},
		{"flag that is no number", "", []string{"--https-listen-port=door"}, []string{"https-listen-port", "door"}},
		{"port out of range", "", []string{"--https-listen-port=70000"}, []string{"https-listen-port", "65535"}},
		{"bad range", "", []string{"--cluster-cidr=10.42.0.0/99"}, []string{"cluster-cidr", "10.42.0.0/99"}},
		{"overlapping ranges", "", []string{"--service-cidr=10.42.128.0/20"}, []string{"service-cidr", "cluster-cidr"}},
		{"bad node name", "", []string{"--node-name=Not_A_Name"}, []string{"node-name", "Not_A_Name"}},
		{"missing config", "", []string{"--config=/nowhere.yaml"}, []string{"/nowhere.yaml"}},
		{"argument", "", []string{"nonsense"}, []string{"nonsense"}},
		{"unknown key", "no-such-key: 1", nil, []string{added, "no-such-key"}},
		{"key that is no number", "https-listen-port: door", nil, []string{added, "https-listen-port", "door"}},
		{"no YAML", "cluster-domain: [", nil, []string{n.configFile()}},
		{"unknown kubelet flag", "", []string{"--kubelet-arg=no-such-arg=1"}, []string{"kubelet", "no-such-arg"}},
		{"unknown apiserver flag", "", []string{"--kube-apiserver-arg=no-such-arg=1"}, []string{"apiserver", "no-such-arg"}},
	} {
		t.Run(tc.name, func(t *testing.T) { n.mustRefuse(t, tc.config, tc.args, tc.want) })
	}
	t.Run("bad registries.yaml", func(t *testing.T) {
		n.writeInside(t, "/etc/brink/registries.yaml", "mirrors:\n  docker.io:\n    endpint:\n    - https://127.0.0.1\n")
		n.mustRefuse(t, "", nil, []string{"/etc/brink/registries.yaml:3", "endpint"})
	})
}

// mustRefuse starts brink with one more line of configuration and flags.
func (n *node) mustRefuse(t *testing.T, config string, args, want []string) {
	t.Helper()
	good := n.config
	defer func() { n.config = good }()
	if config != "" {
		n.config = append(good[:len(good):len(good)], config)
	}
	if err := n.writeConfig(); err != nil {
		t.Fatal(err)
	}
	r, err := n.brink(append([]string{"server", "--config", n.configFile()}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	n.mustSay(t, r.stderr, r.code, want...)
	// The first component makes the certificates.
	if _, err := os.Stat(n.layout().TLS()); err == nil {
		t.Error("brink refused after it had begun to start")
	}
}

// writeInside writes a file as the machine sees it.
func (n *node) writeInside(t *testing.T, path, content string) {
	t.Helper()
	path = n.inside(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestPortTaken(t *testing.T) {
	n := prepareNode(t)
	for _, port := range []string{"6443", "10250"} {
		t.Run(port, func(t *testing.T) {
			l, err := n.netns().listen(net.JoinHostPort("0.0.0.0", port))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			n.mustRefuse(t, "", nil, []string{port, "taken"})
			r, err := n.brink("check", "--config", n.configFile())
			if err != nil || r.code != 1 || !strings.Contains(r.stdout, "port "+port+" ") {
				t.Errorf("brink check with port %s taken: %v %v", port, err, r)
			}
		})
	}
}

// TestNoRoot: the one line for who forgot sudo.
func TestNoRoot(t *testing.T) {
	n := prepareNode(t)
	r, err := n.run("", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", brinkBinary,
		"server", "--config", n.configFile())
	if err != nil {
		t.Fatal(err)
	}
	n.mustSay(t, r.stderr, r.code, "root")
}

// TestMissingNft removes the program from the machine: brink says which package
// has it.
func TestMissingNft(t *testing.T) {
	n := prepareNode(t)
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		t.Fatal(err)
	}
	if err := n.holder.run("rm", path); err != nil {
		t.Fatal(err)
	}
	n.foreign = []string{"file " + filepath.Join(n.dir, "upper", path)} // overlayfs keeps a removal as a file
	n.mustRefuse(t, "", nil, []string{"nft", "nftables"})
}

// TestRevisionsGoOn: a client that watches comes back after restarts by itself,
// and versions never run backwards, not even those of leases, which live in memory.
func TestRevisionsGoOn(t *testing.T) {
	n := prepareNode(t, "disable-agent: true")
	if err := n.startControlPlane(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	factory := informers.NewSharedInformerFactoryWithOptions(n.client, 0, informers.WithNamespace("default"))
	maps := factory.Core().V1().ConfigMaps().Lister().ConfigMaps("default")
	factory.Start(ctx.Done())
	before := n.createLease(t, "before")
	if err := errors.Join(n.create("before"), n.stop(), n.startControlPlane()); err != nil {
		t.Fatal(err)
	}
	kept, err := n.client.CoordinationV1().Leases("default").Get(ctx, "before", metav1.GetOptions{})
	if err != nil || kept.ResourceVersion != before.ResourceVersion {
		t.Errorf("after an orderly restart the lease has version %q, want %q (%v)", kept.ResourceVersion, before.ResourceVersion, err)
	}
	between := n.createLease(t, "between")
	if err := errors.Join(n.create("between"), n.kill(), n.startControlPlane(), n.create("after")); err != nil {
		t.Fatal(err)
	}
	after := n.createLease(t, "after")
	for _, pair := range [][2]*coordinationv1.Lease{{before, between}, {between, after}} {
		if revision(t, pair[0]) >= revision(t, pair[1]) {
			t.Errorf("the lease %s has version %s, one made later has %s", pair[0].Name, pair[0].ResourceVersion, pair[1].ResourceVersion)
		}
	}
	for _, name := range []string{"before", "between", "after"} {
		if err := n.await("the client to know of "+name, func() error {
			_, err := maps.Get(name)
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}

func (n *node) createLease(t *testing.T, name string) *coordinationv1.Lease {
	t.Helper()
	lease, err := n.client.CoordinationV1().Leases("default").Create(t.Context(),
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

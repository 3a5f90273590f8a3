package e2e

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// victims are objects without which a server never became ready, a pattern of the keys
// of one each, and those that nobody but their owner makes again.
var victims = []string{
	"/registry/configmaps/default/damaged-%", "/registry/secrets/default/damaged-%", // the owner's
	"/registry/clusterroles/view", "/registry/namespaces/kube-public", "/registry/flowschemas/global-default",
	"/registry/apiregistration.k8s.io/apiservices/v1.apps", "/registry/services/specs/default/kubernetes",
}

// database is the file as the tests find it.
func (n *node) database() string { return n.Inside(filepath.Join(n.Layout().DB(), "state.db")) }

// editDatabase changes a stopped node's database with other eyes than brink's. It does
// so on a copy: SQLite resolves links, and /proc/PID/root is one.
func (n *node) editDatabase(t *testing.T, change func(db *sql.DB) error) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "state.db")
	data, err := os.ReadFile(n.database())
	if err == nil {
		err = os.WriteFile(copied, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", copied)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(db), db.Close()); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(copied); err == nil {
		err = os.WriteFile(n.database(), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// garble changes the first two bytes of a value of each of the victims. Those of the
// server's own that were damaged before may not be there again: some come back after a
// minute, when what belonged to them is given up.
func garble(db *sql.DB) error {
	for i, key := range victims {
		result, err := db.Exec(`UPDATE kine SET value = CAST(x'fefe' || substr(value, 3) AS BLOB)
			WHERE id = (SELECT MAX(id) FROM kine WHERE name = (SELECT name FROM kine WHERE name LIKE ? AND deleted = 0 ORDER BY id LIMIT 1))`, key)
		if err != nil {
			return err
		}
		if n, _ := result.RowsAffected(); n != 1 && i < 2 {
			return fmt.Errorf("there is no %s", key)
		}
	}
	return nil
}

// flipByte changes one bit of a file somewhere in its middle.
func flipByte(t *testing.T, path string) {
	t.Helper()
	rewrite(t, path, func(data []byte) []byte {
		data[len(data)/4+rand.IntN(len(data)/2)] ^= 1 << rand.IntN(8)
		return data
	})
}

func rewrite(t *testing.T, path string, change func(data []byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// lostLog is a way to lose what a WAL held, and what is told of it.
type lostLog struct {
	name, told string
	damage     func(t *testing.T, wal string)
}

// walDamage are ways to lose what a killed server's WAL held, each with what is told.
var walDamage = []lostLog{
	{"frame", "behind it are not used", func(t *testing.T, wal string) { rewrite(t, wal, flipFrame) }},
	{"missing", "gone or empty", func(t *testing.T, wal string) {
		if err := os.Remove(wal); err != nil {
			t.Fatal(err)
		}
	}},
	{"emptied", "gone or empty", func(t *testing.T, wal string) {
		if err := os.Truncate(wal, 0); err != nil {
			t.Fatal(err)
		}
	}},
}

// flipFrame changes one bit in the middle of the frames that are in use. Behind them are
// those of a use before, which have other salts than the header:
// https://sqlite.org/fileformat2.html#the_write_ahead_log
func flipFrame(wal []byte) []byte {
	const header, frame = 32, 24 + 4096
	inUse := 0
	for at := header; at+frame <= len(wal) && bytes.Equal(wal[at+8:at+16], wal[16:24]); at += frame {
		inUse++
	}
	wal[header+inUse/2*frame+24+rand.IntN(4096)] ^= 1 << rand.IntN(8)
	return wal
}

// timedStart is how long the control plane takes to be Ready.
func (n *node) timedStart(t *testing.T) time.Duration {
	t.Helper()
	begun := time.Now()
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	return time.Since(begun)
}

func (n *node) status(t *testing.T) string {
	t.Helper()
	r, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	return r.Stdout
}

// TestDamagedState damages what a server has on disk, in three ways three times: it is
// Ready nearly as soon as without, and says what is damaged or lost, or says in one line
// why it does not start and leaves what is there as it is.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	n := prepareNode(t, "disable-agent: true")
	n.timedStart(t)
	var usual time.Duration
	for range 2 {
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
		usual = max(usual, n.timedStart(t))
	}
	for round, lost := range walDamage {
		n.losesObjects(t, round, usual)
		n.losesLog(t, round, lost, usual)
	}
	for range 3 {
		n.losesPage(t, usual)
	}
}

// isInTime fails when a start with damage took much longer than one without.
func isInTime(t *testing.T, what string, took, usual time.Duration) {
	t.Helper()
	t.Logf("%s: Ready after %s, usually %s", what, took.Round(10*time.Millisecond), usual.Round(10*time.Millisecond))
	if took > 2*usual+5*time.Second {
		t.Errorf("%s: Ready after %s, usually %s", what, took, usual)
	}
}

// losesObjects makes two objects, garbles them and starts the server again.
func (n *node) losesObjects(t *testing.T, round int, usual time.Duration) {
	t.Helper()
	name := fmt.Sprintf("damaged-%d", round)
	_, err := n.Client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err := errors.Join(err, n.create(name)); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.editDatabase(t, garble)
	isInTime(t, "objects", n.timedStart(t), usual)
	status := n.status(t)
	for _, key := range []string{"/registry/configmaps/default/damaged-", "/registry/secrets/default/damaged-"} {
		if !strings.Contains(status, key) {
			t.Errorf("status does not name %s:\n%s", key, status)
		}
	}
	n.mustWrite(t, fmt.Sprintf("after-objects-%d", round))
}

// losesLog kills the server and damages its WAL.
func (n *node) losesLog(t *testing.T, round int, lost lostLog, usual time.Duration) {
	t.Helper()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	lost.damage(t, n.database()+"-wal")
	isInTime(t, "WAL, "+lost.name, n.timedStart(t), usual)
	for where, text := range map[string]string{"the log": n.stderr(t), "status": n.status(t)} {
		if told := linesWith(text, "WAL /"); len(told) != 1 || !strings.Contains(told[0], lost.told) {
			t.Errorf("WAL, %s: %s tells %q, want one line with %q", lost.name, where, told, lost.told)
		}
	}
	n.mustWrite(t, fmt.Sprintf("after-wal-%d", round))
}

// losesPage flips a byte of the database. If the server does not start then, it says
// why and leaves the file as it is.
func (n *node) losesPage(t *testing.T, usual time.Duration) {
	t.Helper()
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(n.database())
	if err != nil {
		t.Fatal(err)
	}
	flipByte(t, n.database())
	flipped, err := os.ReadFile(n.database())
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := n.StartControlPlane(); err == nil {
		isInTime(t, "database", time.Since(begun), usual)
		return
	}
	if err := n.Says("err", "database "); err != nil {
		t.Error(err)
	}
	if now, err := os.ReadFile(n.database()); err != nil || !bytes.Equal(now, flipped) {
		t.Errorf("the damaged database was changed: %v", err)
	}
	if err := os.WriteFile(n.database(), sound, 0o600); err != nil {
		t.Fatal(err)
	}
	n.timedStart(t)
}

// stderr is what the last start has written.
func (n *node) stderr(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(n.LogFile("err", n.Starts))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func linesWith(text, part string) (lines []string) {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			lines = append(lines, line)
		}
	}
	return lines
}

// mustWrite is what works whatever was damaged.
func (n *node) mustWrite(t *testing.T, name string) {
	t.Helper()
	if err := n.Await("a write", func() error { return n.create(name) }); err != nil {
		t.Fatal(err)
	}
}

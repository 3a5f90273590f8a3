package datadir

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brink/internal/layout"
	"brink/internal/testtree"
)

// pair makes a certificate that signs itself, and its key.
func pair(t *testing.T, name string, isCA bool) (cert, key string) {
	t.Helper()
	return issue(t, name, isCA, "", "")
}

// issue makes a certificate by a CA, or one that signs itself, and its key.
func issue(t *testing.T, name string, isCA bool, caCert, caKey string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true,
	}
	parent, signer := template, any(private)
	if caCert != "" {
		ca, err := tls.X509KeyPair([]byte(caCert), []byte(caKey))
		if err != nil {
			t.Fatal(err)
		}
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

const (
	list     = "dir /etc/brink\nkubeconfig /etc/brink/brink.yaml\n"
	database = "SQLite format 3\x00 and pages with CREATE TABLE kine"
	password = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n"
	version  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// claimCase is a directory, and whether it may become brink's.
type claimCase struct {
	name        string
	files       files
	wrong       string   // part of the refusal
	preexisting []string // what stays the user's
}

func (c claimCase) run(t *testing.T) {
	t.Run(c.name, func(t *testing.T) {
		t.Parallel()
		checkAndClaim(t, c.files, c.wrong, c.preexisting)
	})
}

type files = map[string]string

func TestCheckAndClaim(t *testing.T) {
	t.Parallel()
	elsewhere := testtree.Make(t, map[string]string{"empty/lost+found/": "", "photos/1.jpg": ""})
	for _, c := range []claimCase{
		{"empty", files{}, "", nil},
		{"a lock of a start that was refused", files{"lock": "12\n", ".overlay-probe-1/lower/": ""}, "", nil},
		{"a mark whose writing was cut off", files{".brink.mark.123": "This"}, "", nil},
		{"a new disk", files{"lost+found/": "", "agent/containerd/": ""}, "", []string{"lost+found"}},
		{"what users are told to put there", files{"agent/images/a.tar": "", "agent/images/more/b.tar": "", "agent/pod-manifests/p.yaml": "", "server/tls/server-ca.crt": "", "server/tls/server-ca.key": ""},
			"", []string{"agent/images/a.tar", "agent/images/more", "agent/pod-manifests/p.yaml", "server/tls/server-ca.crt", "server/tls/server-ca.key"}},
		{"links to empty disks", files{"agent/containerd": "->" + elsewhere + "/empty", "agent/images": "->" + elsewhere + "/photos"}, "", []string{"agent/images"}},
		{"photos under brink's names", files{"data/photos/a.jpg": "", "server/site/index.html": "", "agent/recordings/1.wav": ""}, "(agent/recordings, data/photos, server/site)", nil},
		{"a content-addressed store", files{"data/" + strings.Repeat("a", 64) + "/chunk": ""}, "(data/aaaa", nil},
		{"a link to the user's", files{"agent/containerd": "->" + elsewhere + "/photos"}, "(agent/containerd)", nil},
		{"a file where images are looked for", files{"agent/images": "a.tar"}, "(agent/images)", nil},
		{"one file among images", files{"agent/images/a.tar": "", "notes.txt": ""}, "(notes.txt)", nil},
		{"many", files{"a": "", "b": "", "c": "", "d": "", "e": ""}, "(a, b, c and 2 more)", nil},
		{"a file called lock", files{"lock": "the combination is 1234"}, "(lock)", nil},
		{"a mark of somebody else", files{"brink.mark": "X marks the spot\n"}, "(brink.mark)", nil},
		{"a mark that is a link", files{"brink.mark": "->" + elsewhere + "/photos/1.jpg"}, "(brink.mark)", nil},
	} {
		c.run(t)
	}
}

// TestClaimOlder: directories of an older brink, which wrote no mark, and those of others that
// look similar.
func TestClaimOlder(t *testing.T) {
	t.Parallel()
	brinkCA, brinkKey := pair(t, "brink-server-ca@1", true)
	k3sCA, k3sKey := pair(t, "k3s-server-ca@1", true)
	ownCA, ownKey := pair(t, "Clinic Root", true)
	serving, servingKey := issue(t, "kube-apiserver", false, ownCA, ownKey)
	node, nodeKey := issue(t, "system:node:till", false, ownCA, ownKey)
	for _, c := range []claimCase{
		{"an older server", files{"lock": "12\n", "server/tls/server-ca.crt": brinkCA, "server/tls/server-ca.key": brinkKey, "server/db/state.db": database, "notes.txt": ""}, "", nil},
		{"an older server of a user's CA", files{"made": list, "server/tls/server-ca.crt": ownCA, "server/tls/server-ca.key": ownKey, "server/db/state.db": database}, "", nil},
		{"an older server before its first checkpoint", files{"server/tls/server-ca.crt": brinkCA, "server/tls/server-ca.key": brinkKey, "server/db/state.db": "", "server/db/state.db-wal": "7\x7f" + database}, "", nil},
		{"an older server with a database elsewhere", files{"made": list, "server/tls/server-ca.crt": brinkCA, "server/tls/server-ca.key": brinkKey, "agent/node-addresses.json": "[]", "notes.txt": ""}, "", nil},
		{"an older server with a database elsewhere and a user's CA", files{"made": list, "server/tls/server-ca.crt": ownCA, "server/tls/server-ca.key": ownKey, "server/tls/serving-kube-apiserver.crt": serving, "server/tls/serving-kube-apiserver.key": servingKey, "notes.txt": ""}, "", nil},
		{"an older server whose database is damaged", files{"made": list, "server/tls/server-ca.crt": brinkCA, "server/tls/server-ca.key": brinkKey, "server/db/state.db": "\x00" + database}, "", nil},
		{"an older server that was refused", files{"made": list, "lock": "12\n", "agent/node-addresses.json": "[]", "agent/containerd/": ""}, "", nil},
		{"an older agent", files{"made": list, "agent/pki/kubelet-client-current.pem": node + nodeKey, "agent/server-ca.crt": brinkCA, "agent/client-ca.crt": ownCA, "agent/node-password": password, "notes.txt": ""}, "", nil},
		{"an older agent without its node password", files{"made": list, "agent/pki/kubelet-client-current.pem": node + nodeKey, "agent/server-ca.crt": brinkCA, "notes.txt": ""}, "", nil},
		{"an older agent that has never joined", files{"made": list, "data/" + version + "/manifest.json": `{"sha256":"` + version + `"}`, "agent/containerd/tmpmounts/": "", "notes.txt": ""}, "", nil},
		{"an agent of before manifests that has never joined", files{"made": list, "data/" + version + "/pause.tar": "", "data/" + version + "/bin/containerd-shim-runc-v2": "", "agent/containerd/io.containerd.snapshotter.v1.overlayfs/": ""}, "", nil},
		{"what an uninstall left", files{"made": list, "lock": "12\n", "data/x": ""}, "", nil},
		{"k3s", files{"server/tls/server-ca.crt": k3sCA, "server/tls/server-ca.key": k3sKey, "server/db/state.db": database, "agent/containerd/io.containerd.metadata.v1.bolt/meta.db": ""}, "agent/containerd/", nil},
		{"a CA without its key", files{"server/tls/server-ca.crt": brinkCA, "server/tls/server-ca.key": k3sKey, "server/db/state.db": database}, "server/db", nil},
		{"a database that is none", files{"server/tls/server-ca.crt": brinkCA, "server/tls/server-ca.key": brinkKey, "server/db/state.db": "photos"}, "server/db", nil},
		{"a server's CAs with a database of somebody else", files{"server/tls/server-ca.crt": brinkCA, "server/tls/server-ca.key": brinkKey, "server/db/state.db": "SQLite format 3\x00 CREATE TABLE photos"}, "server/db", nil},
		{"an API server's certificate by another CA", files{"made": list, "server/tls/server-ca.crt": k3sCA, "server/tls/server-ca.key": k3sKey, "server/tls/serving-kube-apiserver.crt": serving, "server/tls/serving-kube-apiserver.key": servingKey, "notes.txt": ""}, "notes.txt", nil},
		{"a node's certificate by another CA", files{"made": list, "agent/pki/kubelet-client-current.pem": node + nodeKey, "agent/server-ca.crt": brinkCA, "agent/client-ca.crt": k3sCA, "notes.txt": ""}, "agent/client-ca.crt", nil},
		{"programs without a list", files{"data/" + version + "/manifest.json": `{"sha256":"` + version + `"}`}, "data/0123", nil},
		{"a list and a content-addressed store", files{"made": list, "agent/": "", "data/" + version + "/manifest.json": `{"sha256":"x"}`}, "data/0123", nil},
		{"a list that is none", files{"made": "a cake\n", "agent/pki/kubelet-client-current.pem": node + nodeKey, "agent/server-ca.crt": brinkCA, "agent/node-password": password}, "agent/server-ca.crt", nil},
		{"an agent's files without its key", files{"made": list, "agent/pki/kubelet-client-current.pem": node, "agent/server-ca.crt": brinkCA, "agent/node-password": password, "notes.txt": ""}, "agent/server-ca.crt", nil},
	} {
		c.run(t)
	}
}

// checkAndClaim claims a directory with these files, unless the refusal has the words wrong.
// preexisting are the paths that then stay the user's.
func checkAndClaim(t *testing.T, all map[string]string, wrong string, preexisting []string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	testtree.Fill(t, dir, all)
	l := Locate(dir)
	err := Check(l)
	if claimed := Claim(l); (claimed == nil) != (err == nil) {
		t.Errorf("Check says %v and Claim %v", err, claimed)
	}
	if wrong != "" {
		if err == nil || !strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), dir+"/brink") || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want a line with %q", err, wrong)
		}
		return
	}
	if err != nil || !IsMarked(l) {
		t.Fatalf("got %v, marked %t", err, IsMarked(l))
	}
	testtree.Fill(t, dir, map[string]string{"photos/later.jpg": "", "agent/images/later.tar": ""})
	if err := Claim(l); err != nil {
		t.Errorf("at the next start: %v", err)
	}
	if got := Preexisting(l); !slices.Equal(got, preexisting) {
		t.Errorf("preexisting %q, want %q", got, preexisting)
	}
}

func TestDirectoriesOfTheSystem(t *testing.T) {
	t.Parallel()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/srv", link); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/", "/srv", "/mnt", "/opt/", "/home", "/var/lib", "/root", "/etc/brink", link} {
		err := Check(Locate(dir))
		if err == nil || !strings.Contains(err.Error(), "directory of the system") {
			t.Errorf("%s: got %v", dir, err)
		}
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("an image"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := "--data-dir=" + path + ": not a directory: give another"
	if err := Check(Locate(path)); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestNotThere(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "there")
	if err := Check(Locate(dir)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Error("checking has made something")
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	root := testtree.Make(t, map[string]string{"disk/": "", "link": "->disk"})
	root = Resolve(root)
	disk, link := filepath.Join(root, "disk", "b"), filepath.Join(root, "link", "b")
	l := Locate(link)
	if l.Data() != disk || l != Locate(disk) || l != layout.New(disk) {
		t.Errorf("before the first start: %+v and %+v", l, Locate(disk))
	}
	// A brink that resolved nothing has its run directory by the other name.
	old := layout.At(disk, layout.RunOf(link))
	testtree.Fill(t, disk, map[string]string{"agent/": ""})
	if err := Claim(old); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, disk, disk + "/"} {
		if got := Locate(path); got != old {
			t.Errorf("%s: got %+v, want %+v", path, got, old)
		}
	}
	// A copy is another node.
	copied := filepath.Join(root, "disk", "copy")
	text, err := os.ReadFile(old.Mark())
	if err != nil {
		t.Fatal(err)
	}
	testtree.Fill(t, copied, map[string]string{"brink.mark": string(text)})
	if got := Locate(copied); got != layout.New(copied) {
		t.Errorf("a copy: %+v", got)
	}
	if err := Claim(Locate(copied)); err != nil {
		t.Error(err)
	}
	if got, err := readMark(filepath.Join(copied, layout.MarkFile)); err != nil || got.data != copied || got.run != layout.RunOf(copied) {
		t.Errorf("the copy's mark says %+v (%v)", got, err)
	}
}

func TestMarkAnyNames(t *testing.T) {
	t.Parallel()
	m := mark{data: "/a b\n\"c\"", run: "/run/x", preexisting: []string{"agent/images/\xff\n", "agent/images/ü ü"}, links: map[string]string{"agent/cni": "/mnt/a b"}}
	got, err := parseMark(m.text())
	if err != nil || got.data != m.data || !slices.Equal(got.preexisting, m.preexisting) || !maps.Equal(got.links, m.links) {
		t.Errorf("got %+v (%v)", got, err)
	}
	for _, text := range []string{"", markTitle, markTitle + "\ndata \"/x\"\n", markTitle + "\ndata /x\nrun /y\n", "x\n" + m.text()} {
		if got, err := parseMark(text); err == nil {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

func TestMakeAgent(t *testing.T) {
	t.Parallel()
	for _, before := range []os.FileMode{0, 0o700, 0o755} {
		l := layout.New(t.TempDir())
		if before != 0 {
			if err := os.Mkdir(l.Agent(), before); err != nil {
				t.Fatal(err)
			}
		}
		if err := MakeAgent(l); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(l.Agent()); err != nil || info.Mode().Perm() != AgentMode {
			t.Errorf("from %o: got %v (%v)", before, info.Mode(), err)
		}
	}
}

func TestNodeName(t *testing.T) {
	t.Parallel()
	ca, caKey := issue(t, "ca", true, "", "")
	node, key := issue(t, "system:node:till", false, ca, caKey)
	other, otherKey := issue(t, "admin", false, ca, caKey)
	for text, want := range map[string]string{node + key: "till", other + otherKey: "", node: "", "": ""} {
		l := layout.New(testtree.Make(t, map[string]string{"agent/pki/kubelet-client-current.pem": text}))
		if got := NodeName(l); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := NodeName(layout.New(t.TempDir())); got != "" {
		t.Errorf("without a certificate: %q", got)
	}
}

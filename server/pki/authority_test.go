package pki

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brink/internal/testneed"
	"brink/internal/testtree"
)

func TestAuthoritiesLastTenYearsFromAnHourAgo(t *testing.T) {
	t.Parallel()
	tree := mustEnsure(t, config(t))
	for _, name := range authorityNames {
		cert := certificate(t, tree.Cert(name))
		if !cert.NotBefore.Equal(start.Add(-time.Hour)) || !cert.NotAfter.Equal(start.AddDate(0, 0, 3650)) {
			t.Errorf("%s: valid from %s to %s", name, cert.NotBefore, cert.NotAfter)
		}
	}
}

// refusals are states of the directory, or of the clock, with which Ensure makes nothing.
var refusals = []struct {
	name   string
	damage func(*testing.T, Dir)
	now    time.Time
	want   []string // all must be in the error
}{
	{name: "key missing", damage: func(t *testing.T, d Dir) { os.Remove(d.Key(ClientCA)) },
		want: []string{"client-ca.key is missing", "client-ca.crt exists", "restore"}},
	{name: "key of another", damage: func(t *testing.T, d Dir) { os.Rename(d.Key(ServerCA), d.Key(ClientCA)) },
		want: []string{"server-ca.key is missing"}},
	{name: "pair mismatched", damage: func(t *testing.T, d Dir) {
		if _, err := makeKey(d.Key(ServerCA)); err != nil {
			t.Fatal(err)
		}
	}, want: []string{"server-ca.key does not belong to", "server-ca.crt", "restore"}},
	{name: "key garbage", damage: putFile("server-ca.key", "garbage"), want: []string{"server-ca.key", "no private key", "restore"}},
	{name: "key truncated", damage: putFile("server-ca.key", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"),
		want: []string{"server-ca.key", "not a private key"}},
	{name: "certificate empty", damage: putFile("server-ca.crt", ""), want: []string{"server-ca.crt", "no certificate"}},
	{name: "certificate is a directory", damage: func(t *testing.T, d Dir) {
		os.Remove(d.Cert(ServerCA))
		os.Mkdir(d.Cert(ServerCA), 0o700)
	}, want: []string{"server-ca.crt", "is a directory"}},
	{name: "authority lost", damage: func(t *testing.T, d Dir) { os.Remove(d.Cert(ServerCA)); os.Remove(d.Key(ServerCA)) },
		want: []string{"server-ca.crt is missing", "restore", "remove all of"}},
	{name: "certificate of an authority lost", damage: func(t *testing.T, d Dir) { os.Remove(d.Cert(RequestHeaderCA)) },
		want: []string{"request-header-ca.crt is missing", "restore"}},
	{name: "service key lost", damage: func(t *testing.T, d Dir) { os.Remove(d.ServiceKey()) },
		want: []string{"service.key is missing", "restore"}},
	{name: "service key garbage", damage: putFile("service.key", "garbage"), want: []string{"service.key", "restore"}},
	{name: "not an authority", damage: func(t *testing.T, d Dir) {
		os.Rename(d.Cert(ClientAdmin), d.Cert(ClientCA))
		os.Rename(d.Key(ClientAdmin), d.Key(ClientCA))
	}, want: []string{"client-ca.crt is not a certificate authority"}},
	{name: "authority expired", now: start.AddDate(11, 0, 0),
		want: []string{"server-ca.crt expired on 2036-05-29T12:00:00Z", "the clock says 2037-06-01T12:00:00Z"}},
	{name: "clock in the past", now: start.Add(-2 * time.Hour),
		want: []string{"the clock says 2026-06-01T10:00:00Z", "server-ca.crt is valid only from 2026-06-01T11:00:00Z", "set the clock"}},
	{name: "clock of a board without one, first start", now: time.Unix(0, 0), damage: func(t *testing.T, d Dir) {
		if err := os.RemoveAll(string(d)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(string(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}, want: []string{"the clock says 1970-01-01T00:00:00Z", "set the clock"}},
}

// putFile replaces a file of the directory.
func putFile(name, content string) func(*testing.T, Dir) {
	return func(t *testing.T, d Dir) {
		if err := os.WriteFile(filepath.Join(string(d), name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			mustEnsure(t, cfg)
			if tt.damage != nil {
				tt.damage(t, Dir(cfg.Dir))
			}
			if !tt.now.IsZero() {
				cfg = cfg.at(tt.now)
			}
			_, err := Ensure(cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q is not one line", err)
			}
		})
	}
}

func TestRefusalWritesNothing(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	tree := mustEnsure(t, cfg)
	if err := os.WriteFile(tree.Key(RequestHeaderCA), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{tree.Cert(ServerCA), tree.Key(ServerCA), tree.Cert(ClientAdmin), tree.ServiceKey()} {
		os.Remove(path)
	}
	before := testtree.Read(t, cfg.Dir)
	if _, err := Ensure(cfg); err == nil {
		t.Fatal("no error")
	}
	wantChanged(t, before, testtree.Read(t, cfg.Dir))
}

func TestCheckClock(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	if err := CheckClock(cfg.Dir, time.Unix(0, 0)); err != nil {
		t.Errorf("before the first start: %v", err)
	}
	mustEnsure(t, cfg)
	if err := CheckClock(cfg.Dir, start); err != nil {
		t.Error(err)
	}
	if err := CheckClock(cfg.Dir, start.AddDate(-1, 0, 0)); err == nil || !strings.Contains(err.Error(), "2025-06-01") {
		t.Errorf("a year early: %v", err)
	}
}

// companyAuthority makes an authority with openssl, as a user would: an intermediate that a
// root signed. It returns the intermediate's bundle and key, and where the root is.
func companyAuthority(t *testing.T) (bundle, key []byte, root string) {
	t.Helper()
	openssl := testneed.Program(t, "openssl")
	tmp := t.TempDir()
	run := func(args ...string) {
		cmd := exec.Command(openssl, args...)
		cmd.Dir = tmp
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Company Root", "-keyout", "root.key", "-out", "root.crt", "-days", "3000")
	run("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Company Edge", "-keyout", "edge.key", "-out", "edge.csr")
	if err := os.WriteFile(filepath.Join(tmp, "ext"), []byte("basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("x509", "-req", "-in", "edge.csr", "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial", "-out", "edge.crt", "-extfile", "ext", "-days", "200")
	for _, name := range []string{"edge.crt", "root.crt"} {
		data, err := os.ReadFile(filepath.Join(tmp, name))
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, data...)
	}
	key, err := os.ReadFile(filepath.Join(tmp, "edge.key"))
	if err != nil {
		t.Fatal(err)
	}
	return bundle, key, filepath.Join(tmp, "root.crt")
}

// TestUsersOwnAuthority uses openssl because users do: an RSA intermediate with
// its root in the same file, key in PKCS 8 and open to the world.
func TestUsersOwnAuthority(t *testing.T) {
	t.Parallel()
	bundle, key, rootFile := companyAuthority(t)
	cfg := config(t)
	cfg.Now = nil
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{Dir(cfg.Dir).Cert(ServerCA): bundle, Dir(cfg.Dir).Key(ServerCA): key} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	tree := mustEnsure(t, cfg)
	after := testtree.Read(t, cfg.Dir)
	if after["server-ca.crt"] != string(bundle) || after["server-ca.key"] != string(key) {
		t.Error("the user's authority was replaced")
	}
	// A client that trusts only the root must be able to verify the server.
	roots := x509.NewCertPool()
	root := certificate(t, rootFile)
	roots.AddCert(root)
	served, err := readCertificates(tree.Cert(ServingAPIServer))
	if err != nil {
		t.Fatal(err)
	}
	if len(served) != 2 {
		t.Fatalf("%d certificates served, want leaf and intermediate", len(served))
	}
	chain := x509.NewCertPool()
	chain.AddCert(served[1])
	if _, err := served[0].Verify(x509.VerifyOptions{DNSName: "shop.example.com", Roots: roots, Intermediates: chain}); err != nil {
		t.Error(err)
	}
	// The authority ends before a leaf's year: leaves end with it, and are not
	// issued again and again for being short.
	if !served[0].NotAfter.Equal(served[1].NotAfter) {
		t.Errorf("leaf ends %s, authority %s", served[0].NotAfter, served[1].NotAfter)
	}
	mustEnsure(t, cfg.at(time.Now().AddDate(0, 0, 190)))
	if got := changed(after, testtree.Read(t, cfg.Dir)); slices.Contains(got, "serving-kube-apiserver.crt") {
		t.Errorf("issued again without gain: %q", got)
	}
}

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/keyutil"

	"brink/internal/testtree"
)

var start = time.Date(2026, time.June, 1, 12, 0, 0, 0, time.UTC)

func config(t *testing.T) Config {
	t.Helper()
	return Config{
		Dir:           filepath.Join(t.TempDir(), "server", "tls"),
		ClusterDomain: "cluster.local",
		NodeName:      "edge-1",
		NodeIPs:       []netip.Addr{netip.MustParseAddr("192.0.2.7")},
		ServiceIPs:    []netip.Addr{netip.MustParseAddr("10.43.0.1"), netip.MustParseAddr("fd43::1")},
		ExtraSANs:     []string{"Shop.example.com", "203.0.113.9"},
		Now:           func() time.Time { return start },
	}
}

func (c Config) at(now time.Time) Config {
	c.Now = func() time.Time { return now }
	return c
}

func mustEnsure(t *testing.T, cfg Config) *Tree {
	t.Helper()
	tree, err := Ensure(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func certificate(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	certs, err := readCertificates(path)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func changed(before, after map[string]string) []string {
	var names []string
	for name, data := range after {
		if before[name] != data {
			names = append(names, name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			names = append(names, name+" removed")
		}
	}
	slices.Sort(names)
	return names
}

func wantChanged(t *testing.T, before, after map[string]string, want ...string) {
	t.Helper()
	if got := changed(before, after); !slices.Equal(got, want) {
		t.Errorf("changed files %q, want %q", got, want)
	}
}

func TestLeavesVerify(t *testing.T) {
	t.Parallel()
	tree := mustEnsure(t, config(t))
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	for _, tt := range []struct {
		leaf, ca, subject string
		usage, notUsage   x509.ExtKeyUsage
		sans              string
	}{
		{"serving-kube-apiserver", "server-ca", "CN=kube-apiserver", server, client,
			"10.43.0.1,127.0.0.1,192.0.2.7,203.0.113.9,::1,edge-1,fd43::1,kubernetes,kubernetes.default," +
				"kubernetes.default.svc,kubernetes.default.svc.cluster.local,localhost,shop.example.com"},
		{"serving-kubelet", "kubelet-ca", "CN=system:node:edge-1,O=system:nodes", server, client, "192.0.2.7,edge-1"},
		{"client-admin", "client-ca", "CN=system:admin,O=system:masters", client, server, ""},
		{"client-kube-apiserver", "client-ca", "CN=kube-apiserver-kubelet-client", client, server, ""},
		{"client-auth-proxy", "request-header-ca", "CN=system:auth-proxy", client, server, ""},
	} {
		t.Run(tt.leaf, func(t *testing.T) {
			t.Parallel()
			cert := certificate(t, tree.Cert(tt.leaf))
			if got := cert.Subject.String(); got != tt.subject {
				t.Errorf("subject %q, want %q", got, tt.subject)
			}
			if got := strings.Join(sansOf(cert), ","); got != tt.sans {
				t.Errorf("names\n %s, want\n %s", got, tt.sans)
			}
			if got := cert.NotAfter.Sub(start); got != 365*24*time.Hour {
				t.Errorf("valid for %s", got)
			}
			for _, ca := range []string{ServerCA, ClientCA, RequestHeaderCA} {
				roots := x509.NewCertPool()
				roots.AddCert(certificate(t, tree.Cert(ca)))
				options := x509.VerifyOptions{Roots: roots, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{tt.usage}}
				if _, err := cert.Verify(options); (err == nil) != (ca == tt.ca) {
					t.Errorf("verifying with %s: %v", ca, err)
				}
				options.KeyUsages = []x509.ExtKeyUsage{tt.notUsage}
				if _, err := cert.Verify(options); err == nil {
					t.Errorf("verifies with %s for the wrong usage", ca)
				}
			}
			if _, err := tls.LoadX509KeyPair(tree.Cert(tt.leaf), tree.Key(tt.leaf)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeysAreWhatKubernetesReads(t *testing.T) {
	t.Parallel()
	tree := mustEnsure(t, config(t))
	if _, err := keyutil.PrivateKeyFromFile(tree.ServiceKey()); err != nil {
		t.Error(err)
	}
	if keys, err := keyutil.PublicKeysFromFile(tree.ServiceKey()); err != nil || len(keys) != 1 {
		t.Errorf("%d public keys: %v", len(keys), err)
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	mustEnsure(t, cfg)
	tree := Dir(cfg.Dir)
	for _, path := range []string{cfg.Dir, tree.Key(ServerCA), tree.ServiceKey()} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	mustEnsure(t, cfg)
	if info, err := os.Stat(cfg.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v %v", info.Mode(), err)
	}
	if got, want := len(testtree.Read(t, cfg.Dir)), len(tree.files()); got != want {
		t.Errorf("%d files, want %d", got, want)
	}
	for _, path := range tree.files() {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
}

const day = 24 * time.Hour

var allLeaves = []string{"client-admin.crt", "client-auth-proxy.crt", "client-kube-apiserver.crt",
	"serving-kube-apiserver.crt", "serving-kubelet.crt"}

// secondStarts is the table of what a second start finds and does.
var secondStarts = []struct {
	name   string
	damage func(*testing.T, Dir)
	change func(*Config)
	want   []string
}{
	{name: "nothing due"},
	{name: "a day before renewal", change: func(c *Config) { *c = c.at(start.Add(274 * day)) }},
	{name: "90 days left", change: func(c *Config) { *c = c.at(start.Add(275 * day)) }, want: allLeaves},
	{name: "expired while off", change: func(c *Config) { *c = c.at(start.Add(1000 * day)) }, want: allLeaves},
	{name: "clock a little back", change: func(c *Config) { *c = c.at(start.Add(-59 * time.Minute)) }},
	{name: "another tls-san", change: func(c *Config) { c.ExtraSANs = []string{"other.example.com"} },
		want: []string{"serving-kube-apiserver.crt"}},
	{name: "same names in other order and spelling", change: func(c *Config) {
		c.ExtraSANs = []string{"::ffff:203.0.113.9", "shop.example.com", "localhost"}
	}},
	{name: "another node address", change: func(c *Config) { c.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.8")} },
		want: []string{"serving-kube-apiserver.crt", "serving-kubelet.crt"}},
	{name: "another node name", change: func(c *Config) { c.NodeName = "edge-2" },
		want: []string{"serving-kube-apiserver.crt", "serving-kubelet.crt"}},
	{name: "leaf certificate missing", damage: removeFiles("client-admin.crt"), want: []string{"client-admin.crt"}},
	{name: "leaf key missing", damage: removeFiles("client-admin.key"), want: []string{"client-admin.crt", "client-admin.key"}},
	{name: "leaf certificate empty", damage: putFile("client-admin.crt", ""), want: []string{"client-admin.crt"}},
	{name: "leaf key garbage", damage: putFile("client-admin.key", "x"), want: []string{"client-admin.crt", "client-admin.key"}},
	{name: "leaf certificate of another key", damage: func(t *testing.T, d Dir) {
		if _, err := makeKey(d.Key(ClientAdmin)); err != nil {
			t.Fatal(err)
		}
	}, want: []string{"client-admin.crt"}},
	{name: "authority never used, certificate missing", damage: removeFiles("request-header-ca.crt", "client-auth-proxy.crt"),
		want: []string{"client-auth-proxy.crt", "request-header-ca.crt"}},
	{name: "authority never used, missing", damage: removeFiles("request-header-ca.crt", "request-header-ca.key", "client-auth-proxy.crt"),
		want: []string{"client-auth-proxy.crt", "request-header-ca.crt", "request-header-ca.key"}},
	{name: "interrupted write", damage: putFile(".client-admin.key.123", "half a key"),
		want: []string{".client-admin.key.123 removed"}},
	{name: "files of others", damage: putFile("etcd.crt", "not ours")},
}

// removeFiles removes files of the directory.
func removeFiles(names ...string) func(*testing.T, Dir) {
	return func(t *testing.T, d Dir) {
		for _, name := range names {
			if err := os.Remove(filepath.Join(string(d), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestEnsureAgain(t *testing.T) {
	t.Parallel()
	for _, tt := range secondStarts {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := config(t)
			mustEnsure(t, cfg)
			if tt.change != nil {
				tt.change(&cfg)
			} else {
				cfg = cfg.at(start.Add(time.Hour))
			}
			if tt.damage != nil {
				tt.damage(t, Dir(cfg.Dir))
			}
			before := testtree.Read(t, cfg.Dir)
			tree := mustEnsure(t, cfg)
			after := testtree.Read(t, cfg.Dir)
			wantChanged(t, before, after, tt.want...)
			checkAll(t, tree)
			mustEnsure(t, cfg)
			wantChanged(t, after, testtree.Read(t, cfg.Dir))
		})
	}
}

// checkAll verifies every leaf against its authority at the tree's own time.
func checkAll(t *testing.T, tree *Tree) {
	t.Helper()
	for _, spec := range leaves {
		roots := x509.NewCertPool()
		roots.AddCert(certificate(t, tree.Cert(spec.ca)))
		pair, err := tls.LoadX509KeyPair(tree.Cert(spec.name), tree.Key(spec.name))
		if err != nil {
			t.Errorf("%s: %v", spec.name, err)
			continue
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: tree.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{spec.usage}})
		if err != nil {
			t.Errorf("%s: %v", spec.name, err)
		}
	}
}

func TestInvalidConfig(t *testing.T) {
	t.Parallel()
	_, err := Ensure(Config{Dir: "tls", NodeName: "Edge_1", ExtraSANs: []string{"ok.example.com", "*.example.com", "fe80::1%eth0", "a b"}})
	if err == nil {
		t.Fatal("no error")
	}
	want := `certificate directory "tls" is not absolute
cluster domain "" is not a DNS name in lower case
node name "Edge_1" is not a DNS name in lower case
--tls-san "fe80::1%eth0" is neither an IP address nor a DNS name
--tls-san "a b" is neither an IP address nor a DNS name`
	if err.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", err, want)
	}
}

func TestParametersBeforeAKey(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	tree := mustEnsure(t, cfg)
	key, err := os.ReadFile(tree.ServiceKey())
	if err != nil {
		t.Fatal(err)
	}
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}})
	if err := os.WriteFile(tree.ServiceKey(), append(parameters, key...), 0o600); err != nil {
		t.Fatal(err)
	}
	mustEnsure(t, cfg)
}

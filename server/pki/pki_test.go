package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/keyutil"

	"brink/internal/testneed"
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

// contents maps every file in the directory to what is in it.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
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
	if got, want := len(contents(t, cfg.Dir)), len(tree.files()); got != want {
		t.Errorf("%d files, want %d", got, want)
	}
	for _, path := range tree.files() {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
}

// TestEnsureAgain is the table of what a second start finds and does.
func TestEnsureAgain(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	allLeaves := []string{"client-admin.crt", "client-auth-proxy.crt", "client-kube-apiserver.crt",
		"serving-kube-apiserver.crt", "serving-kubelet.crt"}
	remove := func(names ...string) func(*testing.T, Dir) {
		return func(t *testing.T, d Dir) {
			for _, name := range names {
				if err := os.Remove(filepath.Join(string(d), name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	put := func(name, content string) func(*testing.T, Dir) {
		return func(t *testing.T, d Dir) {
			if err := os.WriteFile(filepath.Join(string(d), name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
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
		{name: "leaf certificate missing", damage: remove("client-admin.crt"), want: []string{"client-admin.crt"}},
		{name: "leaf key missing", damage: remove("client-admin.key"), want: []string{"client-admin.crt", "client-admin.key"}},
		{name: "leaf certificate empty", damage: put("client-admin.crt", ""), want: []string{"client-admin.crt"}},
		{name: "leaf key garbage", damage: put("client-admin.key", "x"), want: []string{"client-admin.crt", "client-admin.key"}},
		{name: "leaf certificate of another key", damage: func(t *testing.T, d Dir) {
			if _, err := makeKey(d.Key(ClientAdmin)); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"client-admin.crt"}},
		{name: "authority never used, certificate missing", damage: remove("request-header-ca.crt", "client-auth-proxy.crt"),
			want: []string{"client-auth-proxy.crt", "request-header-ca.crt"}},
		{name: "authority never used, missing", damage: remove("request-header-ca.crt", "request-header-ca.key", "client-auth-proxy.crt"),
			want: []string{"client-auth-proxy.crt", "request-header-ca.crt", "request-header-ca.key"}},
		{name: "interrupted write", damage: put(".client-admin.key.123", "half a key"),
			want: []string{".client-admin.key.123 removed"}},
		{name: "files of others", damage: put("etcd.crt", "not ours")},
	} {
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
			before := contents(t, cfg.Dir)
			tree := mustEnsure(t, cfg)
			after := contents(t, cfg.Dir)
			wantChanged(t, before, after, tt.want...)
			checkAll(t, tree)
			mustEnsure(t, cfg)
			wantChanged(t, after, contents(t, cfg.Dir))
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

func TestRefusals(t *testing.T) {
	t.Parallel()
	write := func(name, content string) func(*testing.T, Dir) {
		return func(t *testing.T, d Dir) {
			if err := os.WriteFile(filepath.Join(string(d), name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
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
		{name: "key garbage", damage: write("server-ca.key", "garbage"), want: []string{"server-ca.key", "no private key", "restore"}},
		{name: "key truncated", damage: write("server-ca.key", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"),
			want: []string{"server-ca.key", "not a private key"}},
		{name: "certificate empty", damage: write("server-ca.crt", ""), want: []string{"server-ca.crt", "no certificate"}},
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
		{name: "service key garbage", damage: write("service.key", "garbage"), want: []string{"service.key", "restore"}},
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
	} {
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
	before := contents(t, cfg.Dir)
	if _, err := Ensure(cfg); err == nil {
		t.Fatal("no error")
	}
	wantChanged(t, before, contents(t, cfg.Dir))
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

// TestUsersOwnAuthority uses openssl because users do: an RSA intermediate with
// its root in the same file, key in PKCS 8 and open to the world.
func TestUsersOwnAuthority(t *testing.T) {
	t.Parallel()
	openssl := testneed.Program(t, "openssl")
	cfg := config(t)
	cfg.Now = nil
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
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
	var bundle []byte
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
	for path, data := range map[string][]byte{Dir(cfg.Dir).Cert(ServerCA): bundle, Dir(cfg.Dir).Key(ServerCA): key} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	tree := mustEnsure(t, cfg)
	after := contents(t, cfg.Dir)
	if after["server-ca.crt"] != string(bundle) || after["server-ca.key"] != string(key) {
		t.Error("the user's authority was replaced")
	}
	// A client that trusts only the root must be able to verify the server.
	roots := x509.NewCertPool()
	root := certificate(t, filepath.Join(tmp, "root.crt"))
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
	if got := changed(after, contents(t, cfg.Dir)); slices.Contains(got, "serving-kube-apiserver.crt") {
		t.Errorf("issued again without gain: %q", got)
	}
}

func TestAdminKubeconfig(t *testing.T) {
	t.Parallel()
	tree := mustEnsure(t, config(t).at(time.Now()))
	path := filepath.Join(t.TempDir(), "brink.yaml")
	if err := tree.WriteAdminKubeconfig(path, "https://127.0.0.1:6443", 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if client.Host != "https://127.0.0.1:6443" {
		t.Errorf("host %q", client.Host)
	}
	pair, err := tls.X509KeyPair(client.CertData, client.KeyData)
	if err != nil || pair.Leaf.Subject.CommonName != "system:admin" {
		t.Errorf("client certificate %v: %v", pair.Leaf, err)
	}
	handshake(t, tree, client.CAData, pair)
}

// handshake speaks mutual TLS between an API server with the tree's files and a
// client with the given credentials.
func handshake(t *testing.T, tree *Tree, ca []byte, client tls.Certificate) {
	t.Helper()
	serving, err := tls.LoadX509KeyPair(tree.Cert(ServingAPIServer), tree.Key(ServingAPIServer))
	if err != nil {
		t.Fatal(err)
	}
	clientCAs, serverCAs := x509.NewCertPool(), x509.NewCertPool()
	clientCAs.AddCert(certificate(t, tree.ClientCA()))
	serverCAs.AppendCertsFromPEM(ca)
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{serving},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientCAs}).Handshake()
	}()
	conn := tls.Client(near, &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: serverCAs, ServerName: "127.0.0.1"})
	if err := conn.Handshake(); err != nil {
		t.Errorf("client: %v", err)
	}
	go conn.Read(make([]byte, 1)) // the pipe is unbuffered: take the session tickets
	if err := <-done; err != nil {
		t.Errorf("server: %v", err)
	}
	near.Close()
}

func TestWriteKubeconfig(t *testing.T) {
	t.Parallel()
	tree := mustEnsure(t, config(t))
	path := filepath.Join(t.TempDir(), "etc", "brink.yaml")
	write := func(server string, perm os.FileMode) os.FileInfo {
		t.Helper()
		if err := tree.WriteAdminKubeconfig(path, server, perm); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != perm {
			t.Fatalf("mode %v: %v", info.Mode(), err)
		}
		return info
	}
	first := write("https://127.0.0.1:6443", 0o600)
	if again := write("https://127.0.0.1:6443", 0o600); !os.SameFile(first, again) {
		t.Error("written again without a change")
	}
	if other := write("https://127.0.0.1:7443", 0o600); os.SameFile(first, other) {
		t.Error("not written for another server")
	}
	write("https://127.0.0.1:7443", 0o640)
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

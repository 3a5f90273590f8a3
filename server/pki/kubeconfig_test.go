package pki

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckKubeconfig(t *testing.T) {
	t.Parallel()
	kubeconfig := func(server, ca string) string {
		text, err := Kubeconfig(server, []byte(ca), []byte("cert"), []byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	ours := kubeconfig("https://192.0.2.7:6443", "ours")
	another := strings.ReplaceAll(kubeconfig("https://127.0.0.1:6443", "theirs"), "name: brink", "name: shop")
	both := strings.Replace(ours, "clusters:\n", "clusters:\n- cluster:\n    server: https://198.51.100.1\n  name: shop\n", 1)
	cases := []struct {
		name, text string
		noCA       bool   // first start
		want       string // the other cluster
	}{
		{"of this cluster", ours, false, ""},
		{"another cluster", another, false, "shop"},
		{"this cluster and another", both, false, "shop"},
		{"first start, another cluster", another, true, "shop"},
		{"another machine's brink", kubeconfig("https://192.0.2.9:6443", "theirs"), false, "brink"},
		{"of a brink that was here", kubeconfig("https://127.0.0.1:6443", "old"), true, ""},
		{"on loopback of IPv6", kubeconfig("https://[::1]:6443", "old"), false, ""},
		{"without clusters", "apiVersion: v1\nkind: Config\n", false, ""},
		{"empty", "", false, ""},
		{"no kubeconfig", "\x00\x00[", false, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			checkKubeconfig(t, c.text, c.noCA, c.want)
		})
	}
}

// checkKubeconfig has a file with this text checked. other is the cluster for which it is
// refused, "" if it is not.
func checkKubeconfig(t *testing.T, text string, noCA bool, other string) {
	dir := t.TempDir()
	path, ca := filepath.Join(dir, "config"), filepath.Join(dir, "ca.crt")
	files := map[string]string{path: text, ca: "ours"}
	if noCA {
		delete(files, ca)
	}
	for file, text := range files {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := CheckKubeconfig(path, ca)
	if other == "" && err != nil {
		t.Error(err)
	}
	if want := path + " holds another cluster, " + other + ": name another file"; other != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestCheckKubeconfigElsewhere(t *testing.T) {
	t.Parallel()
	if err := CheckKubeconfig(filepath.Join(t.TempDir(), "none"), "none"); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := CheckKubeconfig("/proc/none/config", "none"); err == nil || !strings.HasPrefix(err.Error(), "/proc/none/config cannot be written: ") {
		t.Errorf("a place where no file can be: %v", err)
	}
}

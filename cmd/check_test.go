package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/testerror"
	"brink/server"
)

// TestCheckSettings: a check refuses what a start would, and leaves nothing behind.
func TestCheckSettings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	cases := map[string]string{ // not parallel: feature gates are the process's
		"--tls-san=a.example.org":                          "",
		"--kubelet-arg=max-pods=many":                      "--kubelet-arg=max-pods=many",
		"--kube-proxy-arg=proxy-mode=ipvs":                 "nftables only",
		"--kube-apiserver-arg=no-such-flag=1":              "--kube-apiserver-arg=no-such-flag=1",
		"--kube-scheduler-arg=no-such-flag=1":              "--kube-scheduler-arg=no-such-flag=1",
		"--kube-controller-manager-arg=controllers=nobody": "--kube-controller-manager-arg",
		"--datastore-endpoint=gopher://db":                 "datastore endpoint",
	}
	for arg, want := range cases {
		withFlags(t, []string{"--node-name=edge-1", "--node-ip=192.0.2.1", "--data-dir", dir, arg}, func(c *cli.Context) {
			s, err := readServer(c)
			if err != nil {
				t.Fatal(err)
			}
			switch err := node.CheckSettings(s); {
			case want == "" && err != nil:
				t.Errorf("%s: %v", arg, err)
			case want != "":
				testerror.OneLine(t, err, want)
			}
		})
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a check has made the data directory")
	}
}

// TestChecksWithoutPods: a machine that only keeps a control plane needs less.
func TestChecksWithoutPods(t *testing.T) {
	t.Parallel()
	names := func(disableAgent bool) []string {
		var out []string
		withFlags(t, append(plausible, fmt.Sprintf("--disable-agent=%v", disableAgent)), func(c *cli.Context) {
			s, err := readServer(c)
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range node.HostChecks(s, 0) {
				out = append(out, check.Name)
			}
		})
		return out
	}
	all, few := names(false), names(true)
	for _, name := range []string{"nft", "memory cgroup", "ip forwarding", "port 10250"} {
		if !slices.Contains(all, name) || slices.Contains(few, name) {
			t.Errorf("%s: with pods %v, without %v", name, slices.Contains(all, name), slices.Contains(few, name))
		}
	}
	if !slices.Contains(few, "port 6443") {
		t.Errorf("the API server's port is not looked at: %v", few)
	}
}

// What an installer must not replace is refused by the check that it makes before.
func TestCheckVersion(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	cfg := node.Config{Layout: l, Server: &server.Config{}}
	if got := checkVersion(cfg); len(got) > 0 {
		t.Errorf("a fresh directory: %v", got)
	}
	for path, text := range map[string]string{
		l.UpgradeState(): fmt.Sprintf(`{"phase":"watching","from":"v1","to":"v2","dataDir":%q}`, l.Data()),
		l.StateVersion(): `{"version":"v9","kubernetes":"v1.99.0","format":99}`,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := checkVersion(cfg)
	if len(got) != 2 || got[0].Result != host.Fail || !strings.Contains(got[0].Message, "from v1 to v2") || !strings.Contains(got[1].Message, "format 99") {
		t.Errorf("got %+v", got)
	}
	cfg.Server = nil
	if got := checkVersion(cfg); len(got) != 1 {
		t.Errorf("an agent: %+v", got)
	}
}

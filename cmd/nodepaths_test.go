package cmd

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"brink/cmd/node"
	"brink/internal/layout"
	"brink/internal/testerror"
	"brink/internal/testneed"
)

// configured makes a configuration file the default one for the test.
func configured(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BRINK_CONFIG", path)
}

func TestDefaultPaths(t *testing.T) {
	cases := []struct {
		name, config     string
		env              map[string]string
		data, kubeconfig string // data may be a part of the error
	}{
		{"nothing said", "", nil, layout.DefaultData, "/etc/brink/brink.yaml"},
		{"by file", "data-dir: /srv/a\nwrite-kubeconfig: /srv/admin.yaml\n", nil, "/srv/a", "/srv/admin.yaml"},
		{"another data directory has its own kubeconfig", "data-dir: /srv/a\n", nil, "/srv/a", "/srv/a/brink.yaml"},
		{"the environment wins", "data-dir: /srv/a\n", map[string]string{"BRINK_DATA_DIR": "/srv/b"}, "/srv/b", "/srv/b/brink.yaml"},
		{"mistakes in other keys", "data-dir: /srv/a\nno-such-key: 1\ndebug: perhaps\n", nil, "/srv/a", "/srv/a/brink.yaml"},
		{"a mistake that hides the paths", "data-dir: [/a, /b]\n", nil, "data-dir takes one value", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			configured(t, c.config)
			for key, value := range c.env {
				t.Setenv(key, value)
			}
			got, err := defaultPaths()
			if err != nil {
				testerror.OneLine(t, err, c.data)
				return
			}
			if got.layout.Data() != c.data || got.kubeconfig != c.kubeconfig {
				t.Errorf("got %s and %s, want %s and %s", got.layout.Data(), got.kubeconfig, c.data, c.kubeconfig)
			}
		})
	}
}

// TestCommandsKnowThePaths asks commands about a node that does not run, which
// says where they looked for it.
func TestCommandsKnowThePaths(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	configured(t, "data-dir: "+dir+"\nnode-naem: typo\n")
	for _, args := range []string{"status", "images list", "images import x.tar"} {
		err := newApp(os.Exit).Run(append([]string{"brink"}, strings.Fields(args)...))
		testerror.OneLine(t, err, "brink is not running with data directory "+dir)
		if !errors.Is(err, node.ErrNotRunning) {
			t.Errorf("%s: %v", args, err)
		}
	}
	testerror.OneLine(t, newApp(os.Exit).Run([]string{"brink", "status", "--data-dir", other}), other)
	t.Setenv("BRINK_CONFIG", "")
	testerror.OneLine(t, newApp(os.Exit).Run([]string{"brink", "status", "--config", filepath.Join(other, "none.yaml")}), "does not exist")
}

// asNobody runs f on a thread that may not read root's files.
func asNobody(t *testing.T, f func() error) error {
	t.Helper()
	testneed.Root(t)
	result := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so nobody else
		// gets one that may not read files.
		runtime.LockOSThread()
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Error(err)
		}
		result <- f()
	}()
	return <-result
}

// TestUnreadableConfig: the default file may be root's alone.
func TestUnreadableConfig(t *testing.T) {
	configured(t, "data-dir: /srv/a\n")
	file := os.Getenv("BRINK_CONFIG")
	t.Setenv("BRINK_CONFIG", "")
	run := func(explicit bool) error {
		c := cli.NewContext(nil, flagSetOf(t, file, explicit), nil)
		c.Command = &cli.Command{}
		return applyPaths(c, "data-dir")
	}
	if err := asNobody(t, func() error { return run(false) }); err != nil {
		t.Errorf("by default: %v", err)
	}
	testerror.OneLine(t, asNobody(t, func() error { return run(true) }), "permission denied")
}

func TestChoosesKubeconfig(t *testing.T) {
	cases := []struct {
		env, args string
		want      bool
	}{
		{"", "get pods", false},
		{"/home/me/config", "get pods", true},
		{"", "get pods --kubeconfig /home/me/config", true},
		{"", "--kubeconfig=/home/me/config get pods", true},
	}
	for _, c := range cases {
		t.Setenv("KUBECONFIG", c.env)
		if got := choosesKubeconfig(strings.Fields("kubectl " + c.args)); got != c.want {
			t.Errorf("%s with %q: %v", c.args, c.env, got)
		}
	}
}

func TestFindKubeconfig(t *testing.T) {
	dir := t.TempDir()
	own, home, missing := filepath.Join(dir, "brink.yaml"), filepath.Join(dir, "config"), filepath.Join(dir, "missing")
	for _, path := range []string{own, home} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	denied := own + " is readable by root only: use sudo"
	cases := []struct {
		name, args, path, home string
		root                   bool
		want                   string // KUBECONFIG, or a part of the error
	}{
		{"the node's own", "get pods", own, home, true, own},
		{"no node here", "get pods", missing, home, true, ""},
		{"of root, with a file of one's own", "get pods", own, "/proc/self/status", false, ""},
		{"of root, with none", "get pods", own, missing, false, denied},
		{"of root, without a cluster", "version --client", own, missing, false, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", "")
			find := func() error { return findKubeconfig(strings.Fields("kubectl "+c.args), c.path, c.home) }
			var err error
			if c.root {
				err = find()
			} else {
				err = asNobody(t, find)
			}
			if err != nil {
				testerror.OneLine(t, err, c.want)
			} else if got := os.Getenv("KUBECONFIG"); got != c.want {
				t.Errorf("KUBECONFIG is %q, want %q", got, c.want)
			}
		})
	}
}

func TestNeedsCluster(t *testing.T) {
	t.Parallel()
	cases := map[string]bool{
		"get pods":                  true,
		"-n kube-system get pods":   true,
		"exec web -- ls --help":     true,
		"version":                   true,
		"apply -f x.yaml":           true,
		"":                          false,
		"--help":                    false,
		"get --help":                false,
		"help get":                  false,
		"version --client":          false,
		"version --client=true":     false,
		"completion bash":           false,
		"config view":               false,
		"__complete get pods":       false,
		"__completeNoDesc get po":   false,
		"--v=4 config get-clusters": false,
	}
	for args, want := range cases {
		if got := needsCluster(strings.Fields("kubectl " + args)); got != want {
			t.Errorf("%q: %v, want %v", args, got, want)
		}
	}
}

// flagSetOf is a command line with --config, given or as a default.
func flagSetOf(t *testing.T, config string, given bool) *flag.FlagSet {
	t.Helper()
	set := flag.NewFlagSet("test", flag.ContinueOnError)
	set.String("config", config, "")
	set.String("data-dir", "", "")
	if given {
		if err := set.Parse([]string{"--config", config}); err != nil {
			t.Fatal(err)
		}
	}
	return set
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/testdisk"
)

// withFlags runs f with what `brink server` makes of args.
func withFlags(t *testing.T, args []string, f func(c *cli.Context)) {
	t.Helper()
	app := newApp()
	flags := serverFlags()
	app.Commands = []*cli.Command{{Name: "server", Flags: flags, Action: func(c *cli.Context) error {
		if err := applyConfigFile(c, flags); err != nil {
			return err
		}
		f(c)
		return nil
	}}}
	// No configuration of the machine on which the test runs.
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := app.Run(append([]string{"brink", "server", "--config", config}, args...)); err != nil {
		t.Fatal(err)
	}
}

// isLine fails unless err is one line that contains want.
func isLine(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line with %q", err, want)
	}
}

func TestLockDataDir(t *testing.T) {
	t.Parallel()
	l := layout.New(filepath.Join(t.TempDir(), "made", "by the lock"))
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDataDir(l)
	isLine(t, err, fmt.Sprintf("%s is in use by brink with pid %d;", l.Data(), os.Getpid()))
	other, err := lockDataDir(layout.New(t.TempDir()))
	if err != nil {
		t.Errorf("another data directory is another node: %v", err)
	} else {
		other()
	}
	unlock()
	again, err := lockDataDir(l)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again()
}

// TestLockForgetsLongerPID: the file survives restarts, and pids differ in
// length.
func TestLockForgetsLongerPID(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	if err := os.WriteFile(l.Lock(), []byte("99999999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatalf("a leftover file is no lock: %v", err)
	}
	defer unlock()
	if got := lockHolder(l); got != fmt.Sprint(os.Getpid()) {
		t.Errorf("the holder is %s, want %d", got, os.Getpid())
	}
}

// TestLockOnFullDisk: being full is said by the host's check, with what to do.
func TestLockOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := testdisk.Mount(t, "tmpfs", 0, "size=16k")
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	l := layout.New(dir)
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	_, err = lockDataDir(l)
	isLine(t, err, "in use by brink with pid unknown")
}

// lockDir tells the test binary to lock this directory until its input ends.
const lockDir = "BRINK_TEST_LOCK_DIR"

func TestLockBetweenProcesses(t *testing.T) {
	if dir := os.Getenv(lockDir); dir != "" {
		if _, err := lockDataDir(layout.New(dir)); err != nil {
			t.Fatal(err)
		}
		fmt.Println("locked")
		io.Copy(io.Discard, os.Stdin)
		return
	}
	t.Parallel()
	l := layout.New(t.TempDir())
	first := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLockBetweenProcesses$")
	first.Env = append(os.Environ(), lockDir+"="+l.Data())
	if _, err := first.StdinPipe(); err != nil { // held open until Kill
		t.Fatal(err)
	}
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if line := make([]byte, len("locked")); true {
		if _, err := io.ReadFull(out, line); err != nil || string(line) != "locked" {
			t.Fatalf("the first said %q (%v)", line, err)
		}
	}
	_, err = lockDataDir(l)
	isLine(t, err, fmt.Sprintf("with pid %d;", first.Process.Pid))
	// A power cut or kill -9 leaves no lock behind.
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatalf("after the first was killed: %v", err)
	}
	unlock()
}

func TestNotifySystemd(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "notify-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{filepath.Join(dir, "notify"), fmt.Sprintf("@brink-test-%d", os.Getpid())} {
		systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer systemd.Close()
		if err := notifySystemd(name, "READY=1"); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 100)
		if n, err := systemd.Read(message); string(message[:n]) != "READY=1" {
			t.Errorf("%s got %q (%v)", name, message[:n], err)
		}
	}
	if err := notifySystemd("", "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	isLine(t, notifySystemd(filepath.Join(dir, "nobody"), "READY=1"), filepath.Join(dir, "nobody"))
}

func TestTakeEnv(t *testing.T) {
	t.Setenv("BRINK_TEST_TAKE", "value")
	if got := takeEnv("BRINK_TEST_TAKE"); got != "value" {
		t.Errorf("got %q", got)
	}
	if _, there := os.LookupEnv("BRINK_TEST_TAKE"); there {
		t.Error("children would still see it")
	}
}

func TestNodeName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "edge-1", "edge-1.example.org", "1"} {
		if got, err := nodeName(name); err != nil || got != name {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"Edge", "edge_1", "-edge", "edge.", "edge 1", "käse", strings.Repeat("a", 254)} {
		_, err := nodeName(name)
		isLine(t, err, "--node-name="+name+": not usable as a node name")
	}
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	switch got, err := nodeName(""); {
	case err != nil:
		isLine(t, err, hostname)
	case got != strings.ToLower(hostname):
		t.Errorf("the default is %q, the host is %q", got, hostname)
	}
}

func TestFileMode(t *testing.T) {
	t.Parallel()
	good := map[string]fs.FileMode{"600": 0o600, "0644": 0o644, "777": 0o777, "0": 0}
	for text, want := range good {
		if got, err := fileMode(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "888", "rw-------", "0o600", "-1", "1777", "6000"} {
		_, err := fileMode(text)
		isLine(t, err, "--write-kubeconfig-mode="+text+": not an octal file mode")
	}
}

func TestClusterDNS(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		args     []string
		services string
		want     string // addresses, or a part of the error
	}{
		{"tenth address", nil, "10.43.0.0/16", "[10.43.0.10]"},
		{"host bits do not count", nil, "10.43.7.7/16", "[10.43.0.10]"},
		{"IPv6", nil, "fd43::/112", "[fd43::a]"},
		{"of the first range", nil, "fd43::/112 10.43.0.0/16", "[fd43::a]"},
		{"smallest", nil, "10.43.0.0/28", "[10.43.0.10]"},
		{"too small", nil, "10.43.0.0/29", "--service-cidr=10.43.0.0/29: too small"},
		{"given", []string{"--cluster-dns=10.43.0.53,fd43::53"}, "10.43.0.0/16", "[10.43.0.53 fd43::53]"},
		{"given for a small range", []string{"--cluster-dns=10.43.0.2"}, "10.43.0.0/29", "[10.43.0.2]"},
		{"not an address", []string{"--cluster-dns=dns"}, "10.43.0.0/16", "--cluster-dns=dns: not an IP address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var services []netip.Prefix
			for _, text := range strings.Fields(tt.services) {
				services = append(services, netip.MustParsePrefix(text))
			}
			withFlags(t, tt.args, func(c *cli.Context) {
				got, err := clusterDNS(c, services)
				if err != nil {
					isLine(t, err, tt.want)
				} else if fmt.Sprint(got) != tt.want {
					t.Errorf("got %v, want %s", got, tt.want)
				}
			})
		})
	}
}

// plausible are flags with which nothing of the machine is looked up.
var plausible = []string{"--node-name=edge-1", "--node-ip=192.0.2.1", "--data-dir=/srv/edge"}

func TestReadSettings(t *testing.T) {
	t.Parallel()
	args := append(plausible, "--kubelet-arg=eviction-hard=memory.available<1Mi,nodefs.available<1%", "--tls-san=a.example.org,b.example.org")
	withFlags(t, args, func(c *cli.Context) {
		s, err := readSettings(c)
		if err != nil {
			t.Fatal(err)
		}
		if s.layout.Data() != "/srv/edge" || s.server.NodeName != "edge-1" || s.agent.NodeName != "edge-1" || s.server.Port != 6443 {
			t.Errorf("got %+v", s.server)
		}
		if got := fmt.Sprint(s.server.ClusterCIDRs, s.server.ServiceCIDRs, s.agent.ClusterDNS, s.server.TLSSANs); got != "[10.42.0.0/16] [10.43.0.0/16] [10.43.0.10] [a.example.org b.example.org]" {
			t.Errorf("got %s", got)
		}
		// A comma in what is passed through belongs to the value.
		if got := s.agent.KubeletArgs; len(got) != 1 {
			t.Errorf("one kubelet argument has become %q", got)
		}
	})
}

func TestReadSettingsTellsAllMistakes(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("d", 100)
	args := []string{"--node-name=Edge", "--node-ip=here", "--bind-address=all", "--cluster-cidr=10.42.0.0", "--write-kubeconfig-mode=rw", "--data-dir=" + long}
	withFlags(t, args, func(c *cli.Context) {
		_, err := readSettings(c)
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != len(args) {
			t.Errorf("got %d lines for %d mistakes:\n%v", len(lines), len(args), err)
		}
		for _, arg := range args {
			if !strings.Contains(err.Error(), arg) {
				t.Errorf("nothing about %s in:\n%v", arg, err)
			}
		}
	})
}

func TestLongDataDirWithoutAgent(t *testing.T) {
	t.Parallel()
	args := append(plausible, "--disable-agent", "--data-dir=/"+strings.Repeat("d", 100))
	withFlags(t, args, func(c *cli.Context) {
		if _, err := readSettings(c); err != nil {
			t.Errorf("without pods there is no kubelet whose sockets must fit: %v", err)
		}
	})
}

// stderrOf returns what f writes to standard error.
func stderrOf(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = before }()
	f()
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExitCode(t *testing.T) { // not parallel: standard error is the process's
	tests := []struct {
		name string
		err  error
		code int
		want string
	}{
		{"none", nil, 0, ""},
		{"one", errors.New("port taken"), 1, "brink: port taken\n"},
		{"several", errors.Join(errors.New("port taken"), nil, errors.New("disk full")), 1, "brink: port taken\nbrink: disk full\n"},
		{"newline at the end", errors.New("port taken\n"), 1, "brink: port taken\n"},
		{"with a code", cli.Exit("no such image", 3), 3, "brink: no such image\n"},
	}
	for _, tt := range tests {
		var code int
		got := stderrOf(t, func() { code = exitCode(tt.err) })
		if code != tt.code || got != tt.want {
			t.Errorf("%s: got %d %q, want %d %q", tt.name, code, got, tt.code, tt.want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args string
		want string
	}{
		{"--nonsense", "brink: flag provided but not defined: -nonsense; see brink --help"},
		{"server --nonsense", "brink server: flag provided but not defined: -nonsense; see brink server --help"},
		{"server --https-listen-port=high", `brink server: invalid value "high" for flag -https-listen-port`},
		{"server --data-dir", "brink server: flag needs an argument: -data-dir; see brink server --help"},
		{"server extra", `brink server takes no arguments, got "extra"`},
		{"status --nonsense", "brink status: flag provided but not defined: -nonsense; see brink status --help"},
		{"status -o yaml", "--output=yaml: must be text or json"},
		{"check --nonsense", "brink check: flag provided but not defined"},
		{"images import --nonsense", "brink images import: flag provided but not defined: -nonsense; see brink images import --help"},
		{"images nonsense", `there is no command "images nonsense"; see brink images --help`},
		{"uninstall --nonsense", "brink uninstall: flag provided but not defined"},
		{"version --nonsense", "brink version: flag provided but not defined"},
		{"completion fish", "brink completion: name a shell: bash or zsh"},
		{"nonsense", `there is no command "nonsense"; see brink --help`},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			app := newApp()
			app.Writer, app.ErrWriter = &out, &out
			isLine(t, app.Run(append([]string{"brink"}, strings.Fields(tt.args)...)), tt.want)
			if out.Len() > 0 {
				t.Errorf("beside the error this was printed:\n%s", out.String())
			}
		})
	}
}

func TestVersionFlag(t *testing.T) { // not parallel: standard error is the process's
	for _, flag := range []string{"--version", "-v"} {
		var code int
		stderr := stderrOf(t, func() { code = run([]string{"brink", flag}) })
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit code %d, %s", flag, code, stderr)
		}
	}
}

// TestCheckSettings: what a start would refuse, a check does, and leaves nothing.
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
			s, err := readSettings(c)
			if err != nil {
				t.Fatal(err)
			}
			switch err := checkSettings(s); {
			case want == "" && err != nil:
				t.Errorf("%s: %v", arg, err)
			case want != "":
				isLine(t, err, want)
			}
		})
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a check has made the data directory")
	}
}

// TestConfigFilePrecedence: flags win over the environment, both over the file.
func TestConfigFilePrecedence(t *testing.T) {
	t.Setenv("BRINK_CLUSTER_DOMAIN", "of.environment")
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "cluster-domain: of.file\nnode-name: of-file\nhttps-listen-port: 7443\ntls-san: [a, b]\ndisable-agent: true\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	withFlags(t, []string{"--config", config, "--node-name=of-flag"}, func(c *cli.Context) {
		got := fmt.Sprint(c.String("node-name"), " ", c.String("cluster-domain"), " ", c.Int("https-listen-port"), " ", c.StringSlice("tls-san"), " ", c.Bool("disable-agent"))
		if want := "of-flag of.environment 7443 [a b] true"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestAtLeast(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(atLeast{slog.LevelWarn, slog.NewTextHandler(&out, nil)}).With("a", 1).WithGroup("g")
	log.Info("quiet")
	log.Warn("loud")
	if got := out.String(); strings.Contains(got, "quiet") || !strings.Contains(got, "loud") {
		t.Errorf("got %q, want the warning alone", got)
	}
	if log.Enabled(context.Background(), slog.LevelInfo) {
		t.Error("the work of making records that are dropped is done")
	}
}

// TestCompletePath: Debian's su leaves root with a user's path.
func TestCompletePath(t *testing.T) {
	t.Setenv("PATH", "/opt/mine:/usr/bin:/bin")
	for range 2 {
		completePath()
		if got, want := os.Getenv("PATH"), "/opt/mine:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	t.Setenv("PATH", "")
	completePath()
	if _, err := exec.LookPath("ls"); err != nil {
		t.Error(err)
	}
}

// TestChecksWithoutPods: a machine that only keeps a control plane needs less.
func TestChecksWithoutPods(t *testing.T) {
	t.Parallel()
	names := func(disableAgent bool) []string {
		var out []string
		withFlags(t, append(plausible, fmt.Sprintf("--disable-agent=%v", disableAgent)), func(c *cli.Context) {
			s, err := readSettings(c)
			if err != nil {
				t.Fatal(err)
			}
			for _, check := range hostChecks(s, 0) {
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

func TestSnapshotter(t *testing.T) {
	t.Parallel()
	fine, broken := func() error { return nil }, func() error { return errors.New("disk full") }
	up, starting := make(chan struct{}), make(chan struct{})
	close(up)
	cases := []struct {
		name             string
		ready            chan struct{}
		health, warnings func() error
		want             string
	}{
		{"ready", up, fine, fine, "true [] []"},
		{"starting", starting, fine, fine, "false [] []"},
		{"a problem", up, broken, fine, "false [disk full] []"},
		{"a warning", up, fine, broken, "true [] [disk full]"},
	}
	for _, c := range cases {
		take := snapshotter(settings{}, &lifecycle.Group{}, time.Now(), c.ready, []func() error{fine, c.health}, []func() error{c.warnings})
		status := take()
		if got := fmt.Sprint(status.Ready, status.Problems, status.Warnings); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestPortOf(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		args []string
		want uint16
	}{
		{"nothing given", nil, 10250},
		{"another flag", []string{"max-pods=5"}, 10250},
		{"a number", []string{"port=10260"}, 10260},
		{"dashes in front, the last wins", []string{"port=1", "--port=10261"}, 10261},
		{"an address", []string{"port=127.0.0.1:10262"}, 10262},
		{"an IPv6 address", []string{"port=[::1]:10263"}, 10263},
		{"no number: the component will say so", []string{"port=many"}, 10250},
	}
	for _, c := range cases {
		if got := portOf(c.args, "port", 10250); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

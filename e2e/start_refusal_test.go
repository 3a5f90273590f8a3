package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"brink/e2e/machine"
)

// refuses expects that a start ends by itself with an error: one line about each
// of the wanted texts, and no stack.
func (n *node) refuses(t *testing.T, wanted ...string) {
	t.Helper()
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	n.ends(t, wanted...)
}

// ends waits until brink ends by itself, and checks what it says.
func (n *node) ends(t *testing.T, wanted ...string) {
	t.Helper()
	select {
	case <-n.Exited:
	case <-time.After(patience):
		t.Fatalf("brink runs on, want it to end with %q\n%s", wanted, n.LogTail())
	}
	n.mustSay(t, machine.Tail(n.LogFile("err", n.Starts), 64<<10), n.Cmd.ProcessState.ExitCode(), wanted...)
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

// TestRefusedStarts: what is wrong, where, and nothing was begun.
func TestRefusedStarts(t *testing.T) {
	n := prepareNode(t)
	added := fmt.Sprintf("%s:%d", n.ConfigFile(), len(n.Config)+1)
	for _, tc := range []struct {
		name   string
		config string
		args   []string
		want   []string
	}{
		{"unknown flag", "", []string{"--no-such-flag"}, []string{"no-such-flag"}},
		{"flag that is no number", "", []string{"--https-listen-port=door"}, []string{"https-listen-port", "door"}},
		{"port out of range", "", []string{"--https-listen-port=70000"}, []string{"https-listen-port", "65535"}},
		{"a port twice", "", []string{"--https-listen-port=10250"}, []string{"port 10250", "API server", "kubelet", "--https-listen-port"}},
		{"address of another machine", "", []string{"--bind-address=203.0.113.9"}, []string{"203.0.113.9", "no address of this machine"}},
		{"kubeconfig where no file can be", "", []string{"--write-kubeconfig=/proc/x"}, []string{"write-kubeconfig", "/proc/x"}},
		{"a file as data directory", "", []string{"--data-dir=/etc/hostname"}, []string{"data-dir", "/etc/hostname", "not a directory"}},
		{"bad range", "", []string{"--cluster-cidr=10.42.0.0/99"}, []string{"cluster-cidr", "10.42.0.0/99"}},
		{"overlapping ranges", "", []string{"--service-cidr=10.42.128.0/20"}, []string{"service-cidr", "cluster-cidr"}},
		{"bad node name", "", []string{"--node-name=Not_A_Name"}, []string{"node-name", "Not_A_Name"}},
		{"missing config", "", []string{"--config=/nowhere.yaml"}, []string{"/nowhere.yaml"}},
		{"argument", "", []string{"nonsense"}, []string{"nonsense"}},
		{"unknown key", "no-such-key: 1", nil, []string{added, "no-such-key"}},
		{"key that is no number", "https-listen-port: door", nil, []string{added, "https-listen-port", "door"}},
		{"no YAML", "cluster-domain: [", nil, []string{n.ConfigFile()}},
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
	good := n.Config
	defer func() { n.Config = good }()
	if config != "" {
		n.Config = append(good[:len(good):len(good)], config)
	}
	if err := n.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	r, err := n.Brink(append([]string{"server", "--config", n.ConfigFile()}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	n.mustSay(t, r.Stderr, r.Code, want...)
	l := n.Layout()
	for _, path := range []string{l.TLS(), l.Lock(), l.Mark(), l.Made(), l.Run()} {
		if _, err := os.Lstat(n.Inside(path)); err == nil {
			t.Errorf("brink has refused to start and made %s", path)
		}
	}
}

// writeInside writes a file as the machine sees it.
func (n *node) writeInside(t *testing.T, path, content string) {
	t.Helper()
	path = n.Inside(path)
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
			l, err := n.Netns().Listen(net.JoinHostPort("0.0.0.0", port))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			n.mustRefuse(t, "", nil, []string{port, "taken"})
			r, err := n.Brink("check", "--config", n.ConfigFile())
			if err != nil || r.Code != 1 || !strings.Contains(r.Stdout, "port "+port+" ") {
				t.Errorf("brink check with port %s taken: %v %v", port, err, r)
			}
		})
	}
}

// TestNoRoot: one line tells a user who forgot sudo.
func TestNoRoot(t *testing.T) {
	n := prepareNode(t)
	r, err := n.Run("", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", brinkBinary,
		"server", "--config", n.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	n.mustSay(t, r.Stderr, r.Code, "root")
}

// startsElsewhere: that a database is another's is found out when its server has been
// asked, and the data directory is marked by then. What a first start has made until
// then is not in the way of the next one with other settings, nor of uninstalling,
// with which this ends as for all nodes.
func startsElsewhere(t *testing.T, endpoint string) {
	t.Helper()
	n := prepareNode(t, "datastore-endpoint: "+endpoint)
	n.refuses(t, "there is no CA in ", "restore")
	n.Config = slices.DeleteFunc(n.Config, func(line string) bool { return strings.HasPrefix(line, "datastore-endpoint") })
	begun := time.Now()
	if err := errors.Join(n.WriteConfig(), n.Start()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(n.LogFile("err", n.Starts))
	if err != nil {
		t.Fatal(err)
	}
	// A start of more than half a minute shows what Kubernetes' components log meanwhile,
	// about each other. Then only brink's own lines count.
	isLong := time.Since(begun) > 25*time.Second
	for _, line := range lines(string(text)) {
		isOwn := containsAny(line, "component=datastore", "component=certificates", "component=cluster-ranges", "component=brink")
		if containsAny(line, "level=WARN", "level=ERROR") && (isOwn || !isLong) {
			t.Errorf("after a refused start: %s", line)
		}
	}
}

func containsAny(line string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(line, part) })
}

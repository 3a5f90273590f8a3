package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"brink/internal/layout"
)

// node is a machine with brink on it.
type node struct {
	*machine
	config []string
	env    []string
	wrap   []string // a command that starts brink
	starts int
	// foreign are leftovers that uninstalling must leave.
	foreign []string
	// cmd is the running brink; exited is closed when it has ended.
	cmd    *exec.Cmd
	exited chan struct{}

	client kubernetes.Interface
	// server is that of an agent's cluster, nil on a server.
	server *node
}

// role is the command that the node runs.
func (n *node) role() string {
	if n.server != nil {
		return "agent"
	}
	return "server"
}

// newNode prepares a machine whose configuration file holds what every node of
// these tests needs and the given lines. Nothing is started.
func newNode(config ...string) (*node, error) {
	m, err := newMachine()
	if err != nil {
		return nil, err
	}
	n := newNodeOn(m, config...)
	return n, errors.Join(n.writeConfig(), n.addImages())
}

// newDefaultNode prepares a machine for a brink of which only its name and the
// place of its cgroups are set, since it shares its host with others.
func newDefaultNode() (*node, error) {
	m, err := newDefaultMachine()
	if err != nil {
		return nil, err
	}
	n := &node{machine: m, config: []string{"node-name: " + m.id, "kubelet-arg:", "  - cgroup-root=/" + m.id}}
	if err := os.MkdirAll(m.inside(layout.ConfigDir), 0o755); err != nil {
		return n, err
	}
	return n, n.writeConfig()
}

func newNodeOn(m *machine, config ...string) *node {
	return &node{machine: m, config: append([]string{
		"data-dir: " + m.data,
		"write-kubeconfig: " + m.kubeconfig(),
		"node-name: " + m.id,
		"kubelet-arg:",
		"  - cgroup-root=/" + m.id,
	}, config...)}
}

// configFile is the configuration file, as the tests find it.
func (n *node) configFile() string {
	if n.isDefault() {
		return n.inside(filepath.Join(layout.ConfigDir, "config.yaml"))
	}
	return filepath.Join(n.dir, "config.yaml")
}

// flags are those that a command needs to know which node it is for: none on a
// machine whose node is the default one.
func (n *node) flags(names ...string) []string {
	var out []string
	for _, name := range names {
		switch {
		case n.isDefault():
		case name == "config":
			out = append(out, "--config", n.configFile())
		case name == "data-dir":
			out = append(out, "--data-dir", n.data)
		}
	}
	return out
}

func (n *node) writeConfig() error {
	return os.WriteFile(n.configFile(), []byte(strings.Join(n.config, "\n")+"\n"), 0o644)
}

// addImages puts the test images where brink imports them from before it starts
// the kubelet. A hard link costs nothing.
func (n *node) addImages() error {
	dir := filepath.Join(n.layout().Agent(), "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Link(imageArchive, filepath.Join(dir, "e2e.tar"))
}

// importImages is addImages for a node that runs.
func (n *node) importImages() error {
	r, err := n.brink(append(append([]string{"images", "import"}, n.flags("data-dir")...), imageArchive)...)
	if err == nil && r.code != 0 {
		err = fmt.Errorf("brink images import: %v", r)
	}
	return err
}

// logFile is the output of a start, 1 being the first.
func (n *node) logFile(stream string, start int) string {
	return filepath.Join(n.dir, fmt.Sprintf("brink.%d.%s", start, stream))
}

// launch starts brink and does not wait for anything.
func (n *node) launch() error {
	n.starts++
	n.cmd = n.command(context.Background(), slices.Concat(n.wrap, []string{brinkBinary, n.role()}, n.flags("config"))...)
	n.cmd.Env = append(n.cmd.Env, n.env...)
	// A terminal's ^C is for the tests, who then stop it in their own way.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := os.Create(n.logFile("out", n.starts))
	if err != nil {
		return err
	}
	defer func() { _ = stdout.Close() }()
	stderr, err := os.Create(n.logFile("err", n.starts))
	if err != nil {
		return err
	}
	defer func() { _ = stderr.Close() }()
	n.cmd.Stdout, n.cmd.Stderr = stdout, stderr
	if err := n.cmd.Start(); err != nil {
		return err
	}
	n.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(n.cmd, n.exited)
	return nil
}

// start launches brink and waits for the line that announces a Ready node: then
// the API must say so too.
func (n *node) start() error {
	if err := n.startUntil("node " + n.id + " is Ready"); err != nil {
		return err
	}
	obj, err := n.client.CoreV1().Nodes().Get(context.Background(), n.id, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if c := readyCondition(obj); c.Status != corev1.ConditionTrue {
		return fmt.Errorf("brink announced a Ready node, which is %s: %s", c.Reason, c.Message)
	}
	return nil
}

// startControlPlane is start for a server without an agent.
func (n *node) startControlPlane() error { return n.startUntil("control plane is Ready") }

func (n *node) startUntil(announced string) error {
	if err := n.launch(); err != nil {
		return err
	}
	err := n.await(fmt.Sprintf("%q on stdout", announced), func() error { return n.says("out", announced) })
	if err != nil {
		return err
	}
	return n.connectClient()
}

// says is nil when the running brink has written text.
func (n *node) says(stream, text string) error {
	b, err := os.ReadFile(n.logFile(stream, n.starts))
	if err == nil && !strings.Contains(string(b), text) {
		err = fmt.Errorf("brink has not written %q", text)
	}
	return err
}

// await polls cond; it gives up early when brink has ended.
func (n *node) await(what string, cond func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := cond()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: %w after %v\n%s", what, err, patience, n.logTail())
		}
		select {
		case <-n.exited:
			return fmt.Errorf("waiting for %s: brink ended: %v\n%s", what, n.cmd.ProcessState, n.logTail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// logTail is the end of what the last start wrote.
func (n *node) logTail() string {
	var b strings.Builder
	for _, stream := range []string{"out", "err"} {
		fmt.Fprintf(&b, "--- brink's std%s, start %d ---\n%s", stream, n.starts, tail(n.logFile(stream, n.starts), 12<<10))
	}
	return b.String()
}

// tail is at most the last size bytes of a file.
func tail(path string, size int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > size {
		_, _ = f.Seek(-size, io.SeekEnd)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// connectClient gives the node the administrator's client: an agent has that of
// its server.
func (n *node) connectClient() error {
	if n.server != nil {
		n.client = n.server.client
		return nil
	}
	config, err := n.restConfig()
	if err != nil {
		return err
	}
	n.client, err = kubernetes.NewForConfig(config)
	return err
}

// restConfig is the admin's, read from the file that brink wrote. Connections
// are made from the machine itself.
func (n *node) restConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", n.kubeconfig())
	if err != nil {
		return nil, err
	}
	config.Dial = n.netns().dial
	config.QPS = -1
	return config, nil
}

// running tells whether the last start's process is alive.
func (n *node) running() bool {
	if n.exited == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

// signal sends sig and waits for the process to end.
func (n *node) signal(sig syscall.Signal) error {
	if err := n.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-n.exited:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("brink runs %v after %v\n%s", patience, sig, n.logTail())
	}
}

// stop ends brink as systemd does; anything but exit code 0 is an error.
func (n *node) stop() error {
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if code := n.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("brink stopped with %v\n%s", n.cmd.ProcessState, n.logTail())
	}
	return nil
}

// kill ends brink as the kernel does when memory runs out.
func (n *node) kill() error { return n.signal(syscall.SIGKILL) }

// uninstall stops brink, runs `brink uninstall` and reports what is left.
func (n *node) uninstall() error {
	if n.running() {
		if err := n.stop(); err != nil {
			return err
		}
	}
	return n.uninstallOnly()
}

// uninstallOnly is uninstall, which stops a brink that runs by itself.
func (n *node) uninstallOnly() error {
	r, err := n.brink(append([]string{"uninstall", "--yes"}, n.flags("data-dir")...)...)
	if err != nil || r.code != 0 {
		return fmt.Errorf("brink uninstall: %v %v", err, r)
	}
	left, err := n.leftovers()
	if err != nil {
		return err
	}
	slices.Sort(left)
	slices.Sort(n.foreign)
	if !slices.Equal(left, n.foreign) {
		return fmt.Errorf("after brink uninstall there is\n%s\nwant only\n%s\nuninstall said: %v",
			strings.Join(left, "\n"), strings.Join(n.foreign, "\n"), r)
	}
	return nil
}

// startNode gives a test a node of its own. At its end brink is uninstalled, and
// leaving something behind fails the test.
func startNode(t *testing.T, config ...string) *node {
	t.Helper()
	n := prepareNode(t, config...)
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	return n
}

// prepareNode is startNode without the start.
func prepareNode(t *testing.T, config ...string) *node {
	t.Helper()
	n, err := newNode(config...)
	if n != nil {
		n.closeAfter(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// closeAfter uninstalls and destroys the node at the end of a test.
func (n *node) closeAfter(t *testing.T) {
	t.Cleanup(func() {
		if t.Failed() && n.starts > 0 {
			t.Log(n.logTail())
		}
		if err := errors.Join(n.uninstall(), n.destroy()); err != nil {
			t.Error(err)
		}
	})
}

package machine

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
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Node is a machine with brink on it.
type Node struct {
	*Machine
	// Config are the lines of the configuration file, Env is added to brink's
	// environment, and Wrap is a command that starts it.
	Config, Env, Wrap []string
	// Starts counts the starts of brink.
	Starts int
	// Foreign are leftovers that uninstalling must leave.
	Foreign []string
	// Cmd is the running brink; Exited is closed when it has ended.
	Cmd    *exec.Cmd
	Exited chan struct{}
	// Client is the administrator's, once brink has started.
	Client kubernetes.Interface
	// Server is that of an agent's cluster, nil on a server.
	Server *Node
}

// Role is the command that the node runs.
func (n *Node) Role() string {
	if n.Server != nil {
		return "agent"
	}
	return "server"
}

// LogFile is the output of a start, 1 being the first.
func (n *Node) LogFile(stream string, start int) string {
	return filepath.Join(n.Dir, fmt.Sprintf("brink.%d.%s", start, stream))
}

// Launch starts brink and does not wait for anything.
func (n *Node) Launch() error {
	n.Starts++
	n.Cmd = n.Command(context.Background(), slices.Concat(n.Wrap, []string{n.config.Program, n.Role()}, n.Flags("config"))...)
	n.Cmd.Env = append(n.Cmd.Env, n.Env...)
	// A terminal's ^C is for the tests, which then stop brink themselves.
	n.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := os.Create(n.LogFile("out", n.Starts))
	if err != nil {
		return err
	}
	defer func() { _ = stdout.Close() }()
	stderr, err := os.Create(n.LogFile("err", n.Starts))
	if err != nil {
		return err
	}
	defer func() { _ = stderr.Close() }()
	n.Cmd.Stdout, n.Cmd.Stderr = stdout, stderr
	if err := n.Cmd.Start(); err != nil {
		return err
	}
	n.Exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(n.Cmd, n.Exited)
	return nil
}

// Start launches brink and waits for the line that announces a Ready node: then
// the API must say so too.
func (n *Node) Start() error {
	if err := n.StartUntil("node " + n.ID + " is Ready"); err != nil {
		return err
	}
	obj, err := n.Client.CoreV1().Nodes().Get(context.Background(), n.ID, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if c := ReadyCondition(obj); c.Status != corev1.ConditionTrue {
		return fmt.Errorf("brink announced a Ready node, which is %s: %s", c.Reason, c.Message)
	}
	return nil
}

// StartControlPlane is Start for a server without an agent.
func (n *Node) StartControlPlane() error { return n.StartUntil("control plane is Ready") }

// StartUntil launches brink and waits until it has written a text to its output.
func (n *Node) StartUntil(announced string) error {
	if err := n.Launch(); err != nil {
		return err
	}
	if err := n.AwaitText("out", announced); err != nil {
		return err
	}
	return n.ConnectClient()
}

// AwaitText waits until the running brink has written text to its standard output
// ("out") or error ("err").
func (n *Node) AwaitText(stream, text string) error {
	return n.Await(fmt.Sprintf("%q on std%s", text, stream), func() error { return n.Says(stream, text) })
}

// Says returns nil when the running brink has written text.
func (n *Node) Says(stream, text string) error {
	b, err := os.ReadFile(n.LogFile(stream, n.Starts))
	if err == nil && !strings.Contains(string(b), text) {
		err = fmt.Errorf("brink has not written %q", text)
	}
	return err
}

// Await polls cond; it gives up early when brink has ended.
func (n *Node) Await(what string, cond func() error) error {
	deadline := time.Now().Add(Patience)
	for {
		err := cond()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for %s: %w after %v\n%s", what, err, Patience, n.LogTail())
		}
		select {
		case <-n.Exited:
			return fmt.Errorf("waiting for %s: brink ended: %v\n%s", what, n.Cmd.ProcessState, n.LogTail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// LogTail is the end of what the last start wrote.
func (n *Node) LogTail() string {
	var b strings.Builder
	for _, stream := range []string{"out", "err"} {
		fmt.Fprintf(&b, "--- brink's std%s, start %d ---\n%s", stream, n.Starts, Tail(n.LogFile(stream, n.Starts), 12<<10))
	}
	return b.String()
}

// Tail is at most the last size bytes of a file.
func Tail(path string, size int64) string {
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

// ConnectClient gives the node the administrator's client: an agent has that of
// its server.
func (n *Node) ConnectClient() error {
	if n.Server != nil {
		n.Client = n.Server.Client
		return nil
	}
	config, err := n.RestConfig()
	if err != nil {
		return err
	}
	n.Client, err = kubernetes.NewForConfig(config)
	return err
}

// RestConfig is the admin's, read from the file that brink wrote. Connections
// are made from the machine itself.
func (n *Node) RestConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig())
	if err != nil {
		return nil, err
	}
	config.Dial = n.Netns().Dial
	config.QPS = -1
	return config, nil
}

// Running reports whether the last start's process is alive.
func (n *Node) Running() bool {
	if n.Exited == nil {
		return false
	}
	select {
	case <-n.Exited:
		return false
	default:
		return true
	}
}

// Signal sends sig and waits for the process to end.
func (n *Node) Signal(sig syscall.Signal) error {
	if err := n.Cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-n.Exited:
		return nil
	case <-time.After(Patience):
		return fmt.Errorf("brink runs %v after %v\n%s", Patience, sig, n.LogTail())
	}
}

// Stop ends brink as systemd does; anything but exit code 0 is an error.
func (n *Node) Stop() error {
	if err := n.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if code := n.Cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("brink stopped with %v\n%s", n.Cmd.ProcessState, n.LogTail())
	}
	return nil
}

// Restart stops brink and starts it again.
func (n *Node) Restart() error {
	if err := n.Stop(); err != nil {
		return err
	}
	return n.Start()
}

// Status runs brink status.
func (n *Node) Status() (Result, error) {
	return n.Brink(append([]string{"status"}, n.Flags("data-dir")...)...)
}

// Kill ends brink as the kernel does when memory runs out.
func (n *Node) Kill() error { return n.Signal(syscall.SIGKILL) }

// Uninstall stops brink, runs `brink uninstall` and reports what is left.
func (n *Node) Uninstall() error {
	if n.Running() {
		if err := n.Stop(); err != nil {
			return err
		}
	}
	return n.UninstallOnly()
}

// UninstallOnly is Uninstall of a brink that may run: the command itself stops it.
func (n *Node) UninstallOnly() error {
	r, err := n.Brink(append([]string{"uninstall", "--yes"}, n.Flags("data-dir")...)...)
	if err != nil || r.Code != 0 {
		return fmt.Errorf("brink uninstall: %v %v", err, r)
	}
	left, err := n.Leftovers()
	if err != nil {
		return err
	}
	slices.Sort(left)
	slices.Sort(n.Foreign)
	if !slices.Equal(left, n.Foreign) {
		return fmt.Errorf("after brink uninstall there is\n%s\nwant only\n%s\nuninstall said: %v",
			strings.Join(left, "\n"), strings.Join(n.Foreign, "\n"), r)
	}
	return nil
}

// Leave uninstalls brink if it was ever started, and destroys the machine.
func (n *Node) Leave() error {
	var err error
	if n.Starts > 0 {
		err = n.Uninstall()
	}
	return errors.Join(err, n.Destroy())
}

// LogsEnv names the directory where the output of every brink is kept.
const LogsEnv = "BRINK_E2E_LOGS"

// Destroy removes the machine and keeps brink's output where the user wants it.
func (n *Node) Destroy() error {
	n.saveLogs()
	return n.Machine.Destroy()
}

func (n *Node) saveLogs() {
	dir := os.Getenv(LogsEnv)
	logs, _ := filepath.Glob(filepath.Join(n.Dir, "brink.*"))
	if dir == "" || len(logs) == 0 {
		return
	}
	dir = filepath.Join(dir, n.ID)
	_ = os.MkdirAll(dir, 0o755)
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			_ = os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o644)
		}
	}
}

// ReadyCondition is a Node's condition Ready, Unknown when there is none.
func ReadyCondition(obj *corev1.Node) corev1.NodeCondition {
	for _, c := range obj.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{Status: corev1.ConditionUnknown, Reason: "NoReadyCondition"}
}

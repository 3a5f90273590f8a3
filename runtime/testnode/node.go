// Package testnode runs the containerd component in tests, in a process of its own,
// which is the test program once more: that way a test can kill it, and what upstream
// leaves running in a process ends with it.
package testnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/testneed"
	"brink/runtime/containerd"
	"brink/runtime/images"
	"brink/runtime/payload"
)

// Patience is how long a test waits for what has to happen.
const Patience = 60 * time.Second

// Node is one containerd component. Everything it writes is in directories of the
// test.
type Node struct {
	// Config is what the next start gets.
	Config containerd.Config
	// Alone puts the node into a network namespace of its own.
	Alone bool
	// ArchivesAfter is when the archives of the next start have been read, zero if there
	// are none.
	ArchivesAfter time.Duration
	// Volumes and Env are those of the next containers.
	Volumes []*cri.Mount
	Env     []*cri.KeyValue
	// Log is what the process of the last start has written.
	Log *Lines

	t        *testing.T
	cgroup   string // parent of the pods' cgroups, made by runc, removed by the test
	attempts uint32 // containers made so far

	process *exec.Cmd
	exited  chan error // the process's end, once
	conn    *grpc.ClientConn
}

// Main is the TestMain of a package that runs nodes: it turns the test program into a
// node when it is told so. It returns the exit code.
func Main(m *testing.M) int {
	if os.Getenv(nodeVariable) != "" {
		return runNode()
	}
	made := missing("/var/lib/cni", "/var/lib/cni/results")
	code := m.Run()
	for _, dir := range slices.Backward(made) {
		os.Remove(dir) // only if it is empty: then nobody else uses it
	}
	return code
}

// missing are those that do not exist. containerd's CNI library makes them on
// the machine itself, wherever a node keeps its files.
func missing(dirs ...string) []string {
	return slices.DeleteFunc(dirs, func(dir string) bool {
		_, err := os.Lstat(dir)
		return err == nil
	})
}

const (
	nodeVariable = "BRINK_TEST_NODE"
	// ReadyLine is the only line of a start without a warning.
	ReadyLine = "test node is ready"
)

// settings are what the process of a node gets. A layout has no JSON form.
type settings struct {
	Data, Run     string
	Config        containerd.Config
	ArchivesAfter time.Duration
}

func runNode() int {
	var given settings
	if err := json.Unmarshal([]byte(os.Getenv(nodeVariable)), &given); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	cfg := given.Config
	cfg.Layout = layout.At(given.Data, given.Run)
	if given.ArchivesAfter > 0 {
		read := make(chan struct{})
		time.AfterFunc(given.ArchivesAfter, func() { close(read) })
		cfg.ArchivesRead = read
	}
	if cfg.Debug {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}
	component, err := containerd.New(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := component.Run(ctx, func() { fmt.Fprintln(os.Stderr, ReadyLine) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Lines collects output.
type Lines struct {
	mu   sync.Mutex
	text []byte
}

// Write adds to it.
func (l *Lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

// String is all that came.
func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// New prepares a node. containerd's registry of plugins belongs to the
// process, so tests that start one must not be parallel.
func New(t *testing.T) *Node {
	t.Helper()
	testneed.Root(t)
	// The run directory is short because sockets in it have long names.
	base, err := os.MkdirTemp("/tmp", "brink-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("something is still mounted or written: %v", err)
		}
	})
	l := layout.At(base, filepath.Join(base, "r"))
	programs, err := payload.Unpack(l.Payload())
	if err != nil {
		t.Fatal(err)
	}
	facts, err := host.Look()
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{t: t, cgroup: "/" + filepath.Base(base)}
	n.Config = containerd.Config{
		Layout:         l,
		BinDir:         programs.Bin(),
		PauseArchive:   programs.PauseArchive(),
		PauseImage:     programs.PauseImage(),
		CNIBinDir:      programs.Bin(),
		RegistriesFile: filepath.Join(base, "registries.yaml"),
		Host:           facts,
	}
	t.Cleanup(func() { removeCgroups(t, n.cgroup) })
	return n
}

// Start runs the node until it is ready.
func (n *Node) Start() {
	n.t.Helper()
	n.Launch()
	for deadline := time.Now().Add(Patience); !strings.Contains(n.Log.String(), ReadyLine); {
		select {
		case err := <-n.exited:
			n.t.Fatalf("containerd ended: %v\n%s", err, n.Log)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			n.process.Process.Kill()
			n.t.Fatalf("containerd is not ready:\n%s", n.Log)
		}
	}
	conn, err := grpc.NewClient("unix:"+n.Config.Layout.ContainerdSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.conn = conn
}

// Launch starts the process.
func (n *Node) Launch() {
	n.t.Helper()
	cfg, err := json.Marshal(settings{n.Config.Layout.Data(), n.Config.Layout.Run(), n.Config, n.ArchivesAfter})
	if err != nil {
		n.t.Fatal(err)
	}
	n.Log = &Lines{}
	n.process = exec.Command("/proc/self/exe")
	// A path without anything in it: a runc of this machine must not help.
	n.process.Env = []string{nodeVariable + "=" + string(cfg), "PATH=/nonexistent"}
	n.process.Stderr = n.Log
	if n.Alone {
		n.process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	}
	// Shims inherit the pipe; without this Wait would wait for them.
	n.process.WaitDelay = time.Second
	if err := n.process.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.exited = make(chan error, 1)
	go func(process *exec.Cmd, exited chan<- error) { exited <- process.Wait() }(n.process, n.exited)
}

// Stop ends the node in an orderly way and checks that it was one.
func (n *Node) Stop() {
	n.t.Helper()
	if err := n.End(syscall.SIGTERM); err != nil {
		n.t.Errorf("stopping containerd: %v\n%s", err, n.Log)
	}
}

// End ends the node by a signal and returns how its process ended.
func (n *Node) End(signal os.Signal) error {
	n.t.Helper()
	n.conn.Close()
	if err := n.process.Process.Signal(signal); err != nil {
		n.t.Fatal(err)
	}
	err := n.Wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// Crash ends the node as a power cut does, and starts it again.
func (n *Node) Crash() {
	n.t.Helper()
	if err := n.End(syscall.SIGKILL); err == nil {
		n.t.Fatal("the node was not killed")
	}
	n.Start()
}

// Wait returns how the process ended, by force if it must.
func (n *Node) Wait() error {
	kill := time.AfterFunc(Patience, func() { n.process.Process.Kill() })
	defer kill.Stop()
	return <-n.exited
}

// Runtime is the CRI of pods and containers.
func (n *Node) Runtime() cri.RuntimeServiceClient { return cri.NewRuntimeServiceClient(n.conn) }

// Images is the CRI of images.
func (n *Node) Images() cri.ImageServiceClient { return cri.NewImageServiceClient(n.conn) }

// Context is for one request.
func (n *Node) Context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	n.t.Cleanup(cancel)
	return ctx
}

// CRIContext is for requests to containerd's own API.
func (n *Node) CRIContext() context.Context {
	return namespaces.WithNamespace(n.Context(), images.Namespace)
}

// Client is containerd's own, until the test ends.
func (n *Node) Client() *client.Client {
	n.t.Helper()
	api, err := client.New(n.Config.Layout.ContainerdSocket(), client.WithDefaultNamespace(images.Namespace))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { api.Close() })
	return api
}

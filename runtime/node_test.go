package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"brink/internal/host"
	"brink/runtime/payload"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const patience = 60 * time.Second

// node is a containerd component in a process of its own, which is this test
// program once more: that way a test can kill it, and what upstream leaves
// running in a process ends with it. Everything it writes is in directories of
// the test.
type node struct {
	t      *testing.T
	cfg    Config
	cgroup string // parent of the pods' cgroups, made by runc, removed by the test

	attempts uint32       // containers made so far
	volumes  []*cri.Mount // of the next containers
	env      []*cri.KeyValue

	// alone puts the node into a network namespace of its own.
	alone bool

	process *exec.Cmd
	exited  chan error // the process's end, once
	stderr  *lines
	conn    *grpc.ClientConn
}

// TestMain turns the test program into a node when it is told so.
func TestMain(m *testing.M) {
	if os.Getenv(nodeVariable) != "" {
		os.Exit(runNode())
	}
	made := missing("/var/lib/cni", "/var/lib/cni/results")
	code := m.Run()
	for _, dir := range slices.Backward(made) {
		os.Remove(dir) // only if it is empty: then nobody else uses it
	}
	os.Exit(code)
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
	readyLine    = "test node is ready"
)

func runNode() int {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv(nodeVariable)), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if cfg.Debug {
		slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}
	component, err := New(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := component.Run(ctx, func() { fmt.Fprintln(os.Stderr, readyLine) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// lines collects output and tells when a line has come.
type lines struct {
	mu   sync.Mutex
	text []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// newNode prepares a node. containerd's registry of plugins belongs to the
// process, so tests that start one must not be parallel.
func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to run containers")
	}
	// The state directory is short because sockets in it have long names.
	base, err := os.MkdirTemp("/tmp", "brink-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(base); err != nil {
			t.Errorf("something is still mounted or written: %v", err)
		}
	})
	programs, err := payload.Unpack(filepath.Join(base, "data"))
	if err != nil {
		t.Fatal(err)
	}
	facts, err := host.Look()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, cgroup: "/" + filepath.Base(base)}
	n.cfg = Config{
		Root:           filepath.Join(base, "root"),
		State:          filepath.Join(base, "s"),
		Socket:         filepath.Join(base, "s", "containerd.sock"),
		BinDir:         programs.Bin(),
		PauseArchive:   programs.PauseArchive(),
		PauseImage:     programs.PauseImage(),
		CNIBinDir:      programs.Bin(),
		CNIConfDir:     filepath.Join(base, "cni"),
		RegistriesFile: filepath.Join(base, "registries.yaml"),
		Host:           facts,
	}
	t.Cleanup(func() { removeCgroups(t, n.cgroup) })
	return n
}

// start runs the node until it is ready.
func (n *node) start() {
	n.t.Helper()
	n.launch()
	for deadline := time.Now().Add(patience); !strings.Contains(n.stderr.String(), readyLine); {
		select {
		case err := <-n.exited:
			n.t.Fatalf("containerd ended: %v\n%s", err, n.stderr)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			n.process.Process.Kill()
			n.t.Fatalf("containerd is not ready:\n%s", n.stderr)
		}
	}
	conn, err := grpc.NewClient("unix:"+n.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.conn = conn
}

func (n *node) launch() {
	n.t.Helper()
	cfg, err := json.Marshal(n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.stderr = &lines{}
	n.process = exec.Command("/proc/self/exe")
	// A path without anything in it: a runc of this machine must not help.
	n.process.Env = []string{nodeVariable + "=" + string(cfg), "PATH=/nonexistent"}
	n.process.Stderr = n.stderr
	if n.alone {
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

// stop ends the node in an orderly way and checks that it was one.
func (n *node) stop() {
	n.t.Helper()
	if err := n.end(syscall.SIGTERM); err != nil {
		n.t.Errorf("stopping containerd: %v\n%s", err, n.stderr)
	}
}

func (n *node) end(signal os.Signal) error {
	n.t.Helper()
	n.conn.Close()
	if err := n.process.Process.Signal(signal); err != nil {
		n.t.Fatal(err)
	}
	err := n.wait()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// wait returns how the process ended, by force if it must.
func (n *node) wait() error {
	kill := time.AfterFunc(patience, func() { n.process.Process.Kill() })
	defer kill.Stop()
	return <-n.exited
}

func (n *node) runtime() cri.RuntimeServiceClient { return cri.NewRuntimeServiceClient(n.conn) }
func (n *node) images() cri.ImageServiceClient    { return cri.NewImageServiceClient(n.conn) }

func (n *node) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	n.t.Cleanup(cancel)
	return ctx
}

// criContext is for requests to containerd's own API.
func (n *node) criContext() context.Context {
	return namespaces.WithNamespace(n.context(), criNamespace)
}

// client is containerd's own, until the test ends.
func (n *node) client() *containerd.Client {
	n.t.Helper()
	client, err := containerd.New(n.cfg.Socket, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { client.Close() })
	return client
}

// sandbox runs a pod on the host's network and removes it when the test ends.
// The node must be running then.
func (n *node) sandbox(id string) (string, *cri.PodSandboxConfig) {
	return n.sandboxIn(id, &cri.NamespaceOption{Network: cri.NamespaceMode_NODE})
}

func (n *node) sandboxIn(id string, namespaces *cri.NamespaceOption) (string, *cri.PodSandboxConfig) {
	n.t.Helper()
	cfg := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: id, Namespace: "test", Uid: id},
		LogDirectory: filepath.Join(n.cfg.Root, "..", "logs", id),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    n.cgroup + "/" + id,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces},
		},
	}
	made, err := n.runtime().RunPodSandbox(n.context(), &cri.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		ctx := n.context()
		if _, err := n.runtime().StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
			n.t.Error(err)
		}
		if _, err := n.runtime().RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
			n.t.Error(err)
		}
	})
	return made.PodSandboxId, cfg
}

// container starts a command in a sandbox.
func (n *node) container(sandbox string, pod *cri.PodSandboxConfig, image string, command ...string) string {
	n.t.Helper()
	n.attempts++
	made, err := n.runtime().CreateContainer(n.context(), &cri.CreateContainerRequest{
		PodSandboxId:  sandbox,
		SandboxConfig: pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main", Attempt: n.attempts},
			Image:    &cri.ImageSpec{Image: image},
			Command:  command,
			LogPath:  "main.log",
			Mounts:   n.volumes,
			Envs:     n.env,
			Linux: &cri.LinuxContainerConfig{
				Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuPeriod: 100000, CpuQuota: 50000},
				// The default profile proves that runc was built with seccomp.
				SecurityContext: &cri.LinuxContainerSecurityContext{
					NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions,
					Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
				},
			},
		},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.runtime().StartContainer(n.context(), &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		n.t.Fatal(err)
	}
	return made.ContainerId
}

func (n *node) status(container string) *cri.ContainerStatusResponse {
	n.t.Helper()
	status, err := n.runtime().ContainerStatus(n.context(), &cri.ContainerStatusRequest{ContainerId: container, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	return status
}

func (n *node) waitState(container string, want cri.ContainerState) *cri.ContainerStatus {
	n.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		status := n.status(container).Status
		if status.State == want {
			return status
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("container is %v, want %v: %s %s", status.State, want, status.Reason, status.Message)
		}
	}
}

// pid of a container's first process, as the CRI reports it.
func (n *node) pid(container string) int {
	n.t.Helper()
	var pid int
	info := n.status(container).Info["info"]
	_, rest, _ := strings.Cut(info, `"pid":`)
	if _, err := fmt.Sscan(rest, &pid); err != nil || pid == 0 {
		n.t.Fatalf("no pid in %s", info)
	}
	return pid
}

// importImage puts an image into the node under ref.
func (n *node) importImage(ref string, image v1.Image) {
	n.t.Helper()
	n.importArchive(ref, image)
	n.waitImage(ref, true)
}

// importLabelled imports the image of an archive with these labels only.
func (n *node) importLabelled(ref string, labels map[string]string) {
	n.t.Helper()
	n.importArchive(ref, busybox(n.t, ref), containerd.WithImageLabels(labels))
}

func (n *node) importArchive(ref string, image v1.Image, options ...containerd.ImportOpt) {
	n.t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		n.t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		n.t.Fatal(err)
	}
	client, err := containerd.New(n.cfg.Socket, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		n.t.Fatal(err)
	}
	defer client.Close()
	ctx := namespaces.WithNamespace(n.context(), criNamespace)
	if _, err := client.Import(ctx, &archive, options...); err != nil {
		n.t.Fatal(err)
	}
}

// busybox is an image of the host's static busybox and a shell link, the same
// for the same labels.
func busybox(t *testing.T, labels ...string) v1.Image {
	t.Helper()
	content, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("install busybox-static: %v", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range []*tar.Header{
		{Name: "bin/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: "bin/busybox", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg},
		{Name: "bin/sh", Linkname: "busybox", Typeflag: tar.TypeSymlink},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", goruntime.GOARCH
	config.Config.Env = []string{"PATH=/bin"}
	config.Config.Labels = map[string]string{}
	for _, label := range labels {
		config.Config.Labels[label] = ""
	}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// removeCgroups removes the test's own cgroup and what pods left in it, in every
// hierarchy. Only empty cgroups can be removed, so nothing running is hit.
func removeCgroups(t *testing.T, cgroup string) {
	t.Helper()
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + cgroup)
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range append(roots, "/sys/fs/cgroup"+cgroup) {
		var dirs []string
		filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := syscall.Rmdir(dirs[i]); err != nil && !errors.Is(err, syscall.ENOENT) {
				t.Errorf("removing cgroup %s: %v", dirs[i], err)
			}
		}
	}
}

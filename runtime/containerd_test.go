package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
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

	attempts uint32 // containers made so far

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
	os.Exit(m.Run())
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

func TestNodeRunsContainersAndFindsThemAgain(t *testing.T) {
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })

	t.Run("reports the runtime ready", func(t *testing.T) {
		status, err := n.runtime().Status(n.context(), &cri.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		conditions := map[string]bool{}
		for _, c := range status.Status.Conditions {
			conditions[c.Type] = c.Status
		}
		if !conditions[cri.RuntimeReady] {
			t.Errorf("conditions are %v", status.Status.Conditions)
		}
		if conditions[cri.NetworkReady] {
			t.Error("the network is ready without a configuration")
		}
	})

	t.Run("starts without a warning", func(t *testing.T) {
		// Such as one about a key of the configuration that containerd ignores.
		if said := strings.TrimSpace(n.stderr.String()); said != readyLine {
			t.Errorf("the log has\n%s", said)
		}
	})

	t.Run("lets only root use its sockets", func(t *testing.T) {
		for _, path := range []string{n.cfg.Socket, n.cfg.Socket + ttrpcSuffix} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
		}
	})

	t.Run("has the sandbox image pinned", func(t *testing.T) {
		list, err := n.images().ListImages(n.context(), &cri.ListImagesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Images) != 1 || !list.Images[0].Pinned || list.Images[0].RepoTags[0] != n.cfg.PauseImage {
			t.Errorf("images are %v", list.Images)
		}
	})

	n.importImage("test.local/busybox:1", busybox(t))
	sandbox, pod := n.sandbox("one")

	t.Run("runs a command, keeps its output and status", func(t *testing.T) {
		c := n.container(sandbox, pod, "test.local/busybox:1", "sh", "-c", "echo hello from $0; busybox grep Seccomp: /proc/self/status; exit 7")
		status := n.waitState(c, cri.ContainerState_CONTAINER_EXITED)
		if status.ExitCode != 7 {
			t.Errorf("exit code is %d, want 7", status.ExitCode)
		}
		output, err := os.ReadFile(status.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"stdout F hello from sh", "Seccomp:\t2"} {
			if !strings.Contains(string(output), want) {
				t.Errorf("log does not contain %q: %s", want, output)
			}
		}
		if _, err := n.runtime().RemoveContainer(n.context(), &cri.RemoveContainerRequest{ContainerId: c}); err != nil {
			t.Error(err)
		}
	})

	t.Run("writes down the shim, so that its version is kept", func(t *testing.T) {
		// Package payload reads it.
		shim, err := os.ReadFile(filepath.Join(n.cfg.State, "io.containerd.runtime.v2.task", criNamespace, sandbox, "shim-binary-path"))
		if want := filepath.Join(n.cfg.BinDir, "containerd-shim-runc-v2"); err != nil || string(shim) != want {
			t.Errorf("shim is %q (%v), want %s", shim, err, want)
		}
	})

	t.Run("reports a container killed for its memory", func(t *testing.T) {
		c := n.container(sandbox, pod, "test.local/busybox:1", "sh", "-c", "busybox tail /dev/zero")
		if status := n.waitState(c, cri.ContainerState_CONTAINER_EXITED); status.Reason != "OOMKilled" {
			t.Errorf("reason is %q, want OOMKilled", status.Reason)
		}
	})

	for name, end := range map[string]func(){
		"stopped": n.stop,
		"killed":  func() { n.end(syscall.SIGKILL) },
	} {
		t.Run("finds a running container again after it was "+name, func(t *testing.T) {
			c := n.container(sandbox, pod, "test.local/busybox:1", "sh", "-c", "trap 'exit 3' TERM; while true; do busybox sleep 0.1; done")
			n.waitState(c, cri.ContainerState_CONTAINER_RUNNING)
			before := n.pid(c)
			end()
			if err := syscall.Kill(before, 0); err != nil {
				t.Fatalf("the container died with containerd: %v", err)
			}
			n.start()
			n.waitState(c, cri.ContainerState_CONTAINER_RUNNING)
			if after := n.pid(c); after != before {
				t.Errorf("pid was %d and is %d", before, after)
			}
			// Exec goes through the shim: it must answer the new containerd.
			out, err := n.runtime().ExecSync(n.context(), &cri.ExecSyncRequest{ContainerId: c, Cmd: []string{"busybox", "echo", "again"}, Timeout: 30})
			if err != nil || string(out.Stdout) != "again\n" {
				t.Errorf("exec says %q, %v", out.GetStdout(), err)
			}
			if _, err := n.runtime().StopContainer(n.context(), &cri.StopContainerRequest{ContainerId: c, Timeout: 30}); err != nil {
				t.Fatal(err)
			}
			if status := n.waitState(c, cri.ContainerState_CONTAINER_EXITED); status.ExitCode != 3 {
				t.Errorf("exit code is %d, want 3", status.ExitCode)
			}
		})
	}
}

// output runs a container to its end and returns what it wrote.
func (n *node) output(sandbox string, pod *cri.PodSandboxConfig, script string) string {
	n.t.Helper()
	c := n.container(sandbox, pod, "test.local/busybox:1", "sh", "-c", script)
	status := n.waitState(c, cri.ContainerState_CONTAINER_EXITED)
	text, err := os.ReadFile(status.LogPath)
	if err != nil {
		n.t.Fatal(err)
	}
	// The log keeps what earlier containers of the pod wrote.
	if err := os.Truncate(status.LogPath, 0); err != nil {
		n.t.Fatal(err)
	}
	return string(text)
}

func TestPauseIsInitOfSharedNamespace(t *testing.T) {
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })
	n.importImage("test.local/busybox:1", busybox(t))
	sandbox, pod := n.sandboxIn("shared", &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_POD})

	// The orphans end while their parent is gone and the container still runs.
	got := n.output(sandbox, pod, "for i in 1 2 3; do (busybox sleep 0.2 &) ; done; busybox sleep 1; busybox ps -o pid,stat,comm")
	if !strings.Contains(got, "1 S    pause") {
		t.Errorf("pause is not process 1:\n%s", got)
	}
	if strings.Contains(got, " Z ") {
		t.Errorf("pause left zombies:\n%s", got)
	}

	status, err := n.runtime().PodSandboxStatus(n.context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	_, rest, _ := strings.Cut(status.Info["info"], `"pid":`)
	if _, err := fmt.Sscan(rest, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		status, err := n.runtime().PodSandboxStatus(n.context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
		if err != nil {
			t.Fatal(err)
		}
		if status.Status.State == cri.PodSandboxState_SANDBOX_NOTREADY {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("pause does not end on SIGTERM")
		}
	}
}

func TestPodsOnTheirOwnNetwork(t *testing.T) {
	n := newNode(t)
	n.alone = true
	n.start()
	t.Cleanup(func() { n.stop() })
	n.importImage("test.local/busybox:1", busybox(t))

	conf := `{"cniVersion": "1.0.0", "name": "test", "plugins": [
		{"type": "bridge", "bridge": "test0", "isGateway": true, "hairpinMode": true,
		 "ipam": {"type": "host-local", "dataDir": "` + filepath.Join(n.cfg.Root, "..", "ipam") + `",
		          "ranges": [[{"subnet": "192.0.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		{"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]}`
	if err := os.WriteFile(filepath.Join(n.cfg.CNIConfDir, "10-test.conflist"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	// The configuration came after the start, as the network component's does.
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		status, err := n.runtime().Status(n.context(), &cri.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if status.Status.Conditions[1].Type == cri.NetworkReady && status.Status.Conditions[1].Status {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the network is not ready: %v", status.Status.Conditions)
		}
	}
	sandbox, pod := n.sandboxIn("net", &cri.NamespaceOption{})
	status, err := n.runtime().PodSandboxStatus(n.context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	if ip := status.Status.Network.Ip; ip != "192.0.2.2" {
		t.Errorf("the pod's address is %q, want 192.0.2.2", ip)
	}
	got := n.output(sandbox, pod, "busybox ip -o addr; busybox ping -c 1 -W 10 192.0.2.1; busybox ping -c 1 -W 10 127.0.0.1")
	if strings.Count(got, "1 packets received") != 2 || !strings.Contains(got, "192.0.2.2/24") {
		t.Errorf("the pod reaches neither its gateway nor itself:\n%s", got)
	}
	// Nodes on one machine must not share the usual directory.
	if mounted := filepath.Join(n.cfg.State, "io.containerd.grpc.v1.cri", "netns"); len(entries(t, mounted)) != 1 {
		t.Errorf("network namespaces in %s: %v, want one", mounted, entries(t, mounted))
	}
}

func entries(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	out, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, cfg *Config)
		want  []string
	}{
		{"a damaged database", func(t *testing.T, cfg *Config) {
			dir := filepath.Join(cfg.Root, metadataPlugin)
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "meta.db"), bytes.Repeat([]byte("damaged "), 4096), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"starting containerd", "meta.db cannot be used", "move"}},
		{"a damaged pause archive", func(t *testing.T, cfg *Config) {
			if err := os.Truncate(cfg.PauseArchive, 100); err != nil {
				t.Fatal(err)
			}
		}, []string{"importing the sandbox image from", "pause.tar"}},
		{"a wrong registries file", func(t *testing.T, cfg *Config) {
			if err := os.WriteFile(cfg.RegistriesFile, []byte("mirrors:\n  a.test:\n    endpoints: []\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"registries.yaml:3: unknown key"}},
		{"a state directory with a long name", func(t *testing.T, cfg *Config) {
			cfg.State = filepath.Join(cfg.State, strings.Repeat("x", 50))
		}, []string{"too long for its sockets"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			c.spoil(t, &n.cfg)
			n.launch()
			if err := n.wait(); err == nil || strings.Contains(n.stderr.String(), readyLine) {
				t.Fatalf("it started: %s", n.stderr)
			}
			lines := strings.Split(strings.TrimSpace(n.stderr.String()), "\n")
			last := lines[len(lines)-1]
			for _, part := range c.want {
				if !strings.Contains(last, part) {
					t.Errorf("the error %q does not contain %q", last, part)
				}
			}
			if strings.Contains(n.stderr.String(), "goroutine ") {
				t.Errorf("there is a stack trace:\n%s", n.stderr)
			}
		})
	}
}

package containerd_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"brink/internal/layout"
	"brink/runtime/containerd"
	"brink/runtime/images"
	"brink/runtime/testnode"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestNodeRunsContainersAndFindsThemAgain(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	t.Cleanup(func() { n.Stop() })
	// Such as a warning about a key of the configuration that containerd ignores.
	if log := strings.TrimSpace(n.Log.String()); log != testnode.ReadyLine {
		t.Errorf("the log has\n%s", log)
	}
	t.Run("reports the runtime ready", func(t *testing.T) { requireRuntimeReady(t, n) })
	t.Run("lets only root use its sockets", func(t *testing.T) { requireRootsSockets(t, n) })
	t.Run("has the sandbox image pinned", func(t *testing.T) { requirePinnedPause(t, n) })

	n.ImportImage("test.local/busybox:1", testnode.Busybox(t))
	sandbox, config := n.Sandbox("one")
	p := pod{n, sandbox, config}
	t.Run("runs a command, keeps its output and status", func(t *testing.T) { p.requireOutput(t) })
	t.Run("records the shim, so that its version is kept", func(t *testing.T) { p.requireShimRecorded(t) })
	t.Run("reports a container killed for its memory", func(t *testing.T) { p.requireOOMKilled(t) })
	t.Run("finds a running container again after it was stopped", func(t *testing.T) { p.requireFoundAgain(t, n.Stop) })
	t.Run("finds a running container again after it was killed", func(t *testing.T) {
		p.requireFoundAgain(t, func() { n.End(syscall.SIGKILL) })
	})
}

// pod is a running sandbox.
type pod struct {
	*testnode.Node
	sandbox string
	config  *cri.PodSandboxConfig
}

// run starts a command in the pod.
func (p pod) run(command ...string) string {
	return p.Container(p.sandbox, p.config, "test.local/busybox:1", command...)
}

func requireRuntimeReady(t *testing.T, n *testnode.Node) {
	t.Helper()
	status, err := n.Runtime().Status(n.Context(), &cri.StatusRequest{})
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
}

func requireRootsSockets(t *testing.T, n *testnode.Node) {
	t.Helper()
	for _, path := range []string{n.Config.Layout.ContainerdSocket(), n.Config.Layout.ContainerdTTRPC()} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func requirePinnedPause(t *testing.T, n *testnode.Node) {
	t.Helper()
	list, err := n.Images().ListImages(n.Context(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Images) != 1 || !list.Images[0].Pinned || list.Images[0].RepoTags[0] != n.Config.PauseImage {
		t.Errorf("images are %v", list.Images)
	}
}

func (p pod) requireOutput(t *testing.T) {
	t.Helper()
	c := p.run("sh", "-c", "echo hello from $0; busybox grep Seccomp: /proc/self/status; exit 7")
	status := p.WaitState(c, cri.ContainerState_CONTAINER_EXITED)
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
	if _, err := p.Runtime().RemoveContainer(p.Context(), &cri.RemoveContainerRequest{ContainerId: c}); err != nil {
		t.Error(err)
	}
}

func (p pod) requireShimRecorded(t *testing.T) {
	t.Helper()
	// Package payload reads it.
	shim, err := os.ReadFile(filepath.Join(p.Config.Layout.ContainerdState(), "io.containerd.runtime.v2.task", images.Namespace, p.sandbox, "shim-binary-path"))
	if want := filepath.Join(p.Config.BinDir, "containerd-shim-runc-v2"); err != nil || string(shim) != want {
		t.Errorf("shim is %q (%v), want %s", shim, err, want)
	}
}

func (p pod) requireOOMKilled(t *testing.T) {
	t.Helper()
	c := p.run("sh", "-c", "busybox tail /dev/zero")
	if status := p.WaitState(c, cri.ContainerState_CONTAINER_EXITED); status.Reason != "OOMKilled" {
		t.Errorf("reason is %q, want OOMKilled", status.Reason)
	}
}

// requireFoundAgain ends the node by end, starts it again, and uses a container that ran
// meanwhile.
func (p pod) requireFoundAgain(t *testing.T, end func()) {
	t.Helper()
	c := p.run("sh", "-c", "trap 'exit 3' TERM; while true; do busybox sleep 0.1; done")
	p.WaitState(c, cri.ContainerState_CONTAINER_RUNNING)
	before := p.PID(c)
	end()
	if err := syscall.Kill(before, 0); err != nil {
		t.Fatalf("the container died with containerd: %v", err)
	}
	p.Start()
	p.WaitState(c, cri.ContainerState_CONTAINER_RUNNING)
	if after := p.PID(c); after != before {
		t.Errorf("pid was %d and is %d", before, after)
	}
	// Exec goes through the shim: it must answer the new containerd.
	out, err := p.Runtime().ExecSync(p.Context(), &cri.ExecSyncRequest{ContainerId: c, Cmd: []string{"busybox", "echo", "again"}, Timeout: 30})
	if err != nil || string(out.Stdout) != "again\n" {
		t.Errorf("exec says %q, %v", out.GetStdout(), err)
	}
	if _, err := p.Runtime().StopContainer(p.Context(), &cri.StopContainerRequest{ContainerId: c, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	if status := p.WaitState(c, cri.ContainerState_CONTAINER_EXITED); status.ExitCode != 3 {
		t.Errorf("exit code is %d, want 3", status.ExitCode)
	}
}

func TestPauseIsInitOfSharedNamespace(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	t.Cleanup(func() { n.Stop() })
	n.ImportImage("test.local/busybox:1", testnode.Busybox(t))
	sandbox, pod := n.SandboxIn("shared", &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_POD})

	// The orphans end while their parent is gone and the container still runs.
	got := n.Output(sandbox, pod, "for i in 1 2 3; do (busybox sleep 0.2 &) ; done; busybox sleep 1; busybox ps -o pid,stat,comm")
	if !strings.Contains(got, "1 S    pause") {
		t.Errorf("pause is not process 1:\n%s", got)
	}
	if strings.Contains(got, " Z ") {
		t.Errorf("pause left zombies:\n%s", got)
	}

	status, err := n.Runtime().PodSandboxStatus(n.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox, Verbose: true})
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
	for deadline := time.Now().Add(testnode.Patience); ; time.Sleep(20 * time.Millisecond) {
		status, err := n.Runtime().PodSandboxStatus(n.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
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
	n := testnode.New(t)
	n.Alone = true
	n.Start()
	t.Cleanup(func() { n.Stop() })
	n.ImportImage("test.local/busybox:1", testnode.Busybox(t))

	conf := `{"cniVersion": "1.0.0", "name": "test", "plugins": [
		{"type": "bridge", "bridge": "test0", "isGateway": true, "hairpinMode": true,
		 "ipam": {"type": "host-local", "dataDir": "` + n.Config.Layout.InData("ipam") + `",
		          "ranges": [[{"subnet": "192.0.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		{"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]}`
	if err := os.WriteFile(filepath.Join(n.Config.Layout.CNIConf(), "10-test.conflist"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	// The configuration came after the start, as the network component's does.
	for deadline := time.Now().Add(testnode.Patience); ; time.Sleep(20 * time.Millisecond) {
		status, err := n.Runtime().Status(n.Context(), &cri.StatusRequest{})
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
	sandbox, pod := n.SandboxIn("net", &cri.NamespaceOption{})
	status, err := n.Runtime().PodSandboxStatus(n.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	if ip := status.Status.Network.Ip; ip != "192.0.2.2" {
		t.Errorf("the pod's address is %q, want 192.0.2.2", ip)
	}
	got := n.Output(sandbox, pod, "busybox ip -o addr; busybox ping -c 1 -W 10 192.0.2.1; busybox ping -c 1 -W 10 127.0.0.1")
	if strings.Count(got, "1 packets received") != 2 || !strings.Contains(got, "192.0.2.2/24") {
		t.Errorf("the pod reaches neither its gateway nor itself:\n%s", got)
	}
	// Nodes on one machine must not share the usual directory.
	if mounted := filepath.Join(n.Config.Layout.ContainerdState(), "io.containerd.grpc.v1.cri", "netns"); len(entries(t, mounted)) != 1 {
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
		spoil func(t *testing.T, cfg *containerd.Config)
		want  []string
	}{
		{"a damaged database", func(t *testing.T, cfg *containerd.Config) {
			dir := filepath.Dir(cfg.Layout.ContainerdDatabase())
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "meta.db"), bytes.Repeat([]byte("damaged "), 4096), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"starting containerd", "meta.db cannot be used", "move"}},
		{"a damaged pause archive", func(t *testing.T, cfg *containerd.Config) {
			if err := os.Truncate(cfg.PauseArchive, 100); err != nil {
				t.Fatal(err)
			}
		}, []string{"importing the sandbox image from", "pause.tar"}},
		{"a wrong registries file", func(t *testing.T, cfg *containerd.Config) {
			if err := os.WriteFile(cfg.RegistriesFile, []byte("mirrors:\n  a.test:\n    endpoints: []\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"registries.yaml:3: unknown key"}},
		{"a state directory with a long name", func(t *testing.T, cfg *containerd.Config) {
			cfg.Layout = layout.At(cfg.Layout.Data(), filepath.Join(cfg.Layout.Run(), strings.Repeat("x", 50)))
		}, []string{"too long for its sockets"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := testnode.New(t)
			c.spoil(t, &n.Config)
			n.Launch()
			if err := n.Wait(); err == nil || strings.Contains(n.Log.String(), testnode.ReadyLine) {
				t.Fatalf("it started: %s", n.Log)
			}
			lines := strings.Split(strings.TrimSpace(n.Log.String()), "\n")
			last := lines[len(lines)-1]
			for _, part := range c.want {
				if !strings.Contains(last, part) {
					t.Errorf("the error %q does not contain %q", last, part)
				}
			}
			if strings.Contains(n.Log.String(), "goroutine ") {
				t.Errorf("there is a stack trace:\n%s", n.Log)
			}
		})
	}
}

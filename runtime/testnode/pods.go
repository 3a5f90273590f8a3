package testnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sandbox runs a pod on the host's network and removes it when the test ends.
// The node must be running then.
func (n *Node) Sandbox(id string) (string, *cri.PodSandboxConfig) {
	return n.SandboxIn(id, &cri.NamespaceOption{Network: cri.NamespaceMode_NODE})
}

// SandboxIn is Sandbox with other namespaces.
func (n *Node) SandboxIn(id string, namespaces *cri.NamespaceOption) (string, *cri.PodSandboxConfig) {
	n.t.Helper()
	cfg := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: id, Namespace: "test", Uid: id},
		Labels:       map[string]string{"io.kubernetes.pod.uid": id}, // as the kubelet does
		LogDirectory: filepath.Join(n.Config.Layout.PodLogs(), id),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    n.cgroup + "/" + id,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces},
		},
	}
	made, err := n.Runtime().RunPodSandbox(n.Context(), &cri.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		ctx := n.Context()
		if _, err := n.Runtime().StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
			n.t.Error(err)
		}
		if _, err := n.Runtime().RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: made.PodSandboxId}); err != nil {
			n.t.Error(err)
		}
	})
	return made.PodSandboxId, cfg
}

// Container starts a command in a sandbox.
func (n *Node) Container(sandbox string, pod *cri.PodSandboxConfig, image string, command ...string) string {
	n.t.Helper()
	n.attempts++
	made, err := n.Runtime().CreateContainer(n.Context(), &cri.CreateContainerRequest{
		PodSandboxId:  sandbox,
		SandboxConfig: pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "main", Attempt: n.attempts},
			Image:    &cri.ImageSpec{Image: image},
			Command:  command,
			LogPath:  "main.log",
			Mounts:   n.Volumes,
			Envs:     n.Env,
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
	if _, err := n.Runtime().StartContainer(n.Context(), &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		n.t.Fatal(err)
	}
	return made.ContainerId
}

// Status is a container's, with its details.
func (n *Node) Status(container string) *cri.ContainerStatusResponse {
	n.t.Helper()
	status, err := n.Runtime().ContainerStatus(n.Context(), &cri.ContainerStatusRequest{ContainerId: container, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	return status
}

// WaitState waits until a container is in a state.
func (n *Node) WaitState(container string, want cri.ContainerState) *cri.ContainerStatus {
	n.t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(20 * time.Millisecond) {
		status := n.Status(container).Status
		if status.State == want {
			return status
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("container is %v, want %v: %s %s", status.State, want, status.Reason, status.Message)
		}
	}
}

// PID of a container's first process, as the CRI reports it.
func (n *Node) PID(container string) int {
	n.t.Helper()
	var pid int
	info := n.Status(container).Info["info"]
	_, rest, _ := strings.Cut(info, `"pid":`)
	if _, err := fmt.Sscan(rest, &pid); err != nil || pid == 0 {
		n.t.Fatalf("no pid in %s", info)
	}
	return pid
}

// Output runs a container to its end and returns what it wrote.
func (n *Node) Output(sandbox string, pod *cri.PodSandboxConfig, script string) string {
	n.t.Helper()
	c := n.Container(sandbox, pod, "test.local/busybox:1", "sh", "-c", script)
	status := n.WaitState(c, cri.ContainerState_CONTAINER_EXITED)
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

package kubelet

import (
	"path/filepath"
	"testing"

	"brink/internal/testerror"
)

// TestChosenDriver: what containerd is told is what the kubelet does, whatever brink's own
// default is.
func TestChosenDriver(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "kubelet.yaml"), header+"cgroupDriver: systemd\n")
	empty := writeFile(t, filepath.Join(t.TempDir(), "kubelet.yaml"), header+"cgroupDriver: \"\"\n")
	for _, tt := range []struct {
		args []string
		want string // empty for brink's default
	}{
		{nil, ""},
		{[]string{"cgroup-driver=systemd"}, "systemd"},
		{[]string{"--cgroup_driver=cgroupfs"}, "cgroupfs"},
		{[]string{"cgroup-driver=cgroupfs", "cgroup-driver=systemd"}, "systemd"},
		{[]string{"config=" + file}, "systemd"},
		{[]string{"config=" + file, "cgroup-driver=cgroupfs"}, "cgroupfs"},
		{[]string{"config=" + empty}, ""},
	} {
		choice, err := ChosenDriver(tt.args)
		if err != nil || (choice.Setting != "") != (tt.want != "") {
			t.Errorf("%q: got %+v (%v)", tt.args, choice, err)
		}
		for standard, name := range map[bool]string{true: "systemd", false: "cgroupfs"} {
			cfg := plausible(tt.args...)
			cfg.SystemdCgroups = standard
			want := tt.want
			if want == "" {
				want = name
			} else if choice.Systemd != (want == "systemd") {
				t.Errorf("%q: got %+v, want %s", tt.args, choice, want)
			}
			if server, err := serverOptions(cfg); err != nil || server.CgroupDriver != want {
				t.Errorf("%q with %s: the kubelet has %s (%v), want %s", tt.args, name, server.CgroupDriver, err, want)
			}
		}
	}
}

func TestChosenDriverRefused(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "kubelet.yaml"), header+"cgroupDriver: Systemd\n")
	for arg, want := range map[string]string{
		"cgroup-driver=crun":          "--kubelet-arg=cgroup-driver=crun: there are the drivers systemd and cgroupfs",
		"config=" + file:              "the kubelet's configuration file: cgroupDriver: Systemd: there are",
		"config=/nowhere/kubelet.yml": "/nowhere/kubelet.yml: ",
	} {
		_, err := ChosenDriver([]string{arg})
		testerror.OneLine(t, err, want)
	}
}

// TestCgroupRootForKubelet: the form that brink has found replaces the user's.
func TestCgroupRootForKubelet(t *testing.T) {
	cfg := plausible("cgroup-root=edge.slice")
	cfg.CgroupRoot = "/edge"
	if server, err := serverOptions(cfg); err != nil || server.CgroupRoot != "/edge" {
		t.Errorf("got %q (%v)", server.CgroupRoot, err)
	}
}

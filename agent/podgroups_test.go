package agent

import (
	"testing"

	"brink/agent/kubelet"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/testerror"
)

var (
	v2Systemd = host.Facts{Systemd: true, SystemdAnswers: true, Cgroup: host.Cgroup{Version: 2}}
	v1Systemd = host.Facts{Systemd: true, SystemdAnswers: true, Cgroup: host.Cgroup{Version: 1}}
	v2Other   = host.Facts{Cgroup: host.Cgroup{Version: 2}}
	v2Shut    = host.Facts{Systemd: true, Cgroup: host.Cgroup{Version: 2}}
)

func TestChoosePodGroups(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		host    host.Facts
		args    []string
		want    podGroups
		refused string
	}{
		{"v2 and systemd", v2Systemd, nil, podGroups{systemd: true}, ""},
		{"v1 and systemd", v1Systemd, nil, podGroups{}, ""},
		{"another init", v2Other, nil, podGroups{}, ""},
		{"systemd out of reach", v2Shut, nil, podGroups{}, ""},
		{"a slice", v2Systemd, []string{"cgroup-root=edge.slice"}, podGroups{systemd: true, root: "/edge"}, ""},
		{"a group of that name", v1Systemd, []string{"cgroup-root=/edge.slice"}, podGroups{root: "/edge.slice"}, ""},
		{"asked for on v1", v1Systemd, []string{"cgroup-driver=systemd"}, podGroups{systemd: true}, ""},
		{"asked for the other on v2", v2Systemd, []string{"cgroup-driver=cgroupfs"}, podGroups{}, ""},
		{"asked for without systemd", v2Other, []string{"cgroup-driver=systemd"}, podGroups{}, "--kubelet-arg=cgroup-driver=systemd: systemd is not the init of this machine: leave it out"},
		{"asked for out of reach", v2Shut, []string{"cgroup-driver=systemd"}, podGroups{}, "--kubelet-arg=cgroup-driver=systemd: systemd cannot be reached"},
		{"asked for nonsense", v2Systemd, []string{"cgroup-driver=x"}, podGroups{}, "--kubelet-arg=cgroup-driver=x: "},
	} {
		got, err := choosePodGroups(Config{Layout: layout.New(t.TempDir()), Host: tt.host, KubeletArgs: tt.args})
		if tt.refused != "" {
			testerror.OneLine(t, err, tt.refused)
		} else if err != nil || got != tt.want {
			t.Errorf("%s: got %+v (%v), want %+v", tt.name, got, err, tt.want)
		}
	}
}

// TestDriverStaysUnderPods: pods that run decide, and only what the user asks for is told
// that it cannot be.
func TestDriverStaysUnderPods(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name               string
		systemd            bool
		bySystemd, byPaths int
		want               podGroups
	}{
		{"none run", true, 0, 0, podGroups{systemd: true}},
		{"they agree", true, 4, 0, podGroups{systemd: true}},
		{"they are of cgroupfs", true, 0, 4, podGroups{kept: "systemd"}},
		{"they are of systemd", false, 4, 0, podGroups{systemd: true, kept: "cgroupfs"}},
	} {
		g := podGroups{systemd: tt.systemd}
		if err := g.keep(kubelet.DriverChoice{}, tt.bySystemd, tt.byPaths); err != nil || g != tt.want {
			t.Errorf("%s: got %+v (%v), want %+v", tt.name, g, err, tt.want)
		}
		g = podGroups{systemd: tt.systemd}
		err := g.keep(kubelet.DriverChoice{Systemd: tt.systemd, Setting: "--kubelet-arg=cgroup-driver=it"}, tt.bySystemd, tt.byPaths)
		if tt.want.kept != "" {
			testerror.OneLine(t, err, "--kubelet-arg=cgroup-driver=it: 4 containers of this node run with the driver "+driverName(!tt.systemd))
		} else if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

package agent

import (
	"context"
	"fmt"

	"brink/agent/cgroups"
	"brink/agent/kubelet"
	"brink/internal/host"
	"brink/internal/lifecycle"
)

// podGroups says where the control groups of pods are and who makes them.
type podGroups struct {
	// systemd is true for the driver systemd, false for cgroupfs.
	systemd bool
	// root is --kubelet-arg=cgroup-root as the kubelet wants it.
	root string
	// kept is what the driver would be if no pods ran, empty if it is that.
	kept string
}

// choosePodGroups decides on the driver: the user's, or else what suits the machine.
//
// It never changes under running pods. The kubelet looks for a pod's group where its
// driver puts it, takes a pod without one for a broken one, and kills it: a node that comes
// back from an update with another driver would restart everything at once. There is no
// record of the driver to go stale. The running containers themselves show which one made
// their groups, and after a reboot there are none.
func choosePodGroups(cfg Config) (podGroups, error) {
	choice, err := kubelet.ChosenDriver(cfg.KubeletArgs)
	if err != nil {
		return podGroups{}, err
	}
	g := podGroups{systemd: cfg.Host.SystemdCgroup()}
	if choice.Setting != "" {
		g.systemd = choice.Systemd
		if err := checkDriver(cfg.Host, choice); err != nil {
			return podGroups{}, err
		}
	}
	hierarchies, _ := cgroups.Hierarchies(cgroups.Mount) // the check of the machine says that there are none
	bySystemd, byItself := cgroups.Running(cfg.Layout.ContainerdState(), hierarchies)
	if err := g.keep(choice, bySystemd, byItself); err != nil {
		return podGroups{}, err
	}
	g.root, err = cgroups.KubeletRoot(kubelet.CgroupRoot(cfg.KubeletArgs), g.systemd)
	return g, err
}

// checkDriver refuses systemd where it cannot be asked: no pod would start.
func checkDriver(f host.Facts, choice kubelet.DriverChoice) error {
	switch {
	case !choice.Systemd || f.MakesSlices():
		return nil
	case !f.Systemd:
		return fmt.Errorf("%s: systemd is not the init of this machine: leave it out", choice.Setting)
	}
	return fmt.Errorf("%s: systemd cannot be reached, neither /run/systemd/private nor /run/dbus/system_bus_socket is there: leave it out", choice.Setting)
}

// keep keeps the driver by which containers run. Another one that the user asks for is
// refused: a node that does something else than its owner wrote is worse than one that
// does not start, and its pods run on meanwhile.
func (g *podGroups) keep(choice kubelet.DriverChoice, bySystemd, byItself int) error {
	others := bySystemd
	if g.systemd {
		others = byItself
	}
	if others == 0 {
		return nil
	}
	wanted, running := driverName(g.systemd), driverName(!g.systemd)
	if choice.Setting != "" {
		return fmt.Errorf("%s: %d containers of this node run with the driver %s, and the kubelet would kill their pods: "+
			"take the setting back, or end the pods first, by brink stop --pods or a reboot", choice.Setting, others, running)
	}
	g.systemd, g.kept = !g.systemd, wanted
	return nil
}

func driverName(systemd bool) string {
	if systemd {
		return "systemd"
	}
	return "cgroupfs"
}

// runCgroups makes the root of the pods' cgroups. It first records what the node is going
// to make, so that uninstall removes that and no more, also after a crash in between.
func (a *Agent) runCgroups(ctx context.Context, ready func()) error {
	g := a.cfg.groups
	if g.kept != "" {
		lifecycle.Logger(ctx).Info("pods run with the cgroup driver "+driverName(g.systemd)+", which is kept until none do", "then", g.kept)
	}
	all, err := cgroups.Hierarchies(cgroups.Mount)
	if err != nil {
		return err
	}
	a.record(cgroups.Entries(all, cgroups.ForPods(g.root, g.systemd)))
	if err := cgroups.MakeRoot(ctx, all, g.root, g.systemd, a.cfg.Host.Cgroup.Version); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

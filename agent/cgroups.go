package agent

import (
	"context"
	"log/slog"

	"brink/agent/cgroups"
	"brink/agent/kubelet"
	"brink/agent/ledger"
)

// saw writes down a pod of the node before the kubelet makes anything for it. A
// disk that is full must not keep the kubelet from running.
func (a *Agent) saw(uid string) {
	if err := a.pods.Load().Add(uid); err != nil {
		slog.Warn("uninstalling will not know a pod as this node's", "component", "ledger", "pod", uid, "error", err)
	}
}

// runCgroups makes the root of the pods' cgroups. What the node is going to make
// is written down before, so that uninstall removes that and no more, also after
// a crash in between.
func (a *Agent) runCgroups(ctx context.Context, ready func()) error {
	root, systemd := kubelet.CgroupRoot(a.cfg.KubeletArgs), a.cfg.Host.SystemdCgroup()
	all, err := cgroups.Hierarchies(cgroups.Mount)
	if err != nil {
		return err
	}
	entries := append(cgroups.Entries(all, cgroups.ForPods(root, systemd)), ledger.DirsOf(a.cfg.Layout)...)
	if err := ledger.Record(a.cfg.Layout.Made(), entries...); err != nil {
		return err
	}
	if err := ledger.RecordSettings(a.cfg.Layout, kubelet.Tunables()); err != nil {
		return err
	}
	pods, err := ledger.OpenPods(a.cfg.Layout)
	if err != nil {
		return err
	}
	defer pods.Close()
	a.pods.Store(pods)
	if err := cgroups.MakeRoot(ctx, all, root, systemd, a.cfg.Host.Cgroup.Version); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

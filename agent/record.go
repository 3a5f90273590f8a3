package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"brink/agent/cgroups"
	"brink/agent/kubelet"
	"brink/agent/ledger"
)

// recordPod records a pod of the node before the kubelet makes anything for it. A full disk
// must not keep the kubelet from running.
func (a *Agent) recordPod(uid string) {
	if err := a.pods.Add(uid); err != nil {
		slog.Warn("uninstalling will not know a pod as this node's", "component", "ledger", "pod", uid, "error", err)
	}
}

// runCgroups makes the root of the pods' cgroups. It first records what the node is going
// to make, so that uninstall removes that and no more, also after a crash in between.
func (a *Agent) runCgroups(ctx context.Context, ready func()) error {
	root, systemd := kubelet.CgroupRoot(a.cfg.KubeletArgs), a.cfg.Host.SystemdCgroup()
	all, err := cgroups.Hierarchies(cgroups.Mount)
	if err != nil {
		return err
	}
	a.record(cgroups.Entries(all, cgroups.ForPods(root, systemd)))
	if err := cgroups.MakeRoot(ctx, all, root, systemd, a.cfg.Host.Cgroup.Version); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// record records what the node is going to make.
func (a *Agent) record(groups []ledger.Entry) {
	l := a.cfg.Layout
	err := a.pods.Open() // before anything else is recorded: it reads the record of an older brink
	warnUnrecorded(errors.Join(
		ledger.Record(l.Made(), append(groups, ledger.Shared(l)...)...),
		ledger.RecordSettings(l, kubelet.Tunables()),
		ledger.RecordSelfBinds(l),
		err,
	))
}

// warnUnrecorded warns of what could not be recorded. Pods run nevertheless: a full
// disk must not keep a machine from coming back after a reboot.
func warnUnrecorded(err error) {
	if err != nil {
		slog.Warn("uninstalling will not know all that brink makes on this machine", "component", "ledger", "error", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

package agent

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"brink/agent/kubelet"
	"brink/agent/ledger"
	"brink/internal/once"
)

// recordPod records a pod of the node before the kubelet makes anything for it. A full disk
// must not keep the kubelet from running.
func (a *Agent) recordPod(uid string) {
	if err := a.pods.Add(uid); err != nil {
		a.ledgerLog.Warn("uninstalling will not know a pod as this node's", "pod", uid, "error", err)
	}
}

// record records what the node is going to make.
func (a *Agent) record(groups []ledger.Entry) {
	l := a.cfg.Layout
	err := a.pods.Open() // before anything else is recorded: it reads the record of an older brink
	warnUnrecorded(a.ledgerLog, errors.Join(
		ledger.Record(l.Made(), append(groups, ledger.Shared(l)...)...),
		ledger.RecordSettings(l, kubelet.Tunables()),
		ledger.RecordSelfBinds(l),
		err,
	))
}

// newLedgerLog returns the logger for what could not be recorded. The kernel's settings are
// recorded at each change, and another program may undo them every few seconds.
func newLedgerLog() *slog.Logger { return once.Logger(slog.With("component", "ledger"), time.Hour) }

// warnUnrecorded warns of what could not be recorded. Pods run nevertheless: a full
// disk must not keep a machine from coming back after a reboot.
func warnUnrecorded(log *slog.Logger, err error) {
	if err != nil {
		log.Warn("uninstalling will not know all that brink makes on this machine", "error", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// fullCheckEvery is how often everything is compared with the kernel although no event
// asked for it. Notifications that get lost are reported as such, so this is for what
// nobody thought of.
const fullCheckEvery = 5 * time.Minute

// Overlay reconciles the kernel's routes, neighbours and FDB entries, and the VXLAN
// device, with the wanted peers.
type Overlay struct {
	cfg     Config
	kernel  kernel
	close   func() // of the kernel
	desired *Desired
	filter  *eventFilter
	probe   *prober
	wake    func() // makes the caller reconcile again
	log     *slog.Logger

	dirty             atomic.Bool // the kernel may differ from what was left there
	retry             bool        // the last comparison did not end well
	checkedAt         time.Time   // when the last one was
	checkedGeneration int         // of what was desired then
	appliedGeneration int         // of what the kernel was last made like
	unusedSince       time.Time   // when the last peer stopped needing the device; zero while one does
	podMTU            int         // as far as known
	warnings          []string
}

func newOverlay(cfg Config, k kernel, desired *Desired, wake func(), log *slog.Logger) *Overlay {
	o := &Overlay{
		cfg: cfg, kernel: k, close: func() {}, desired: desired, wake: wake, log: log,
		filter: &eventFilter{name: []byte(cfg.Device)}, probe: newProber(log),
		podMTU: cfg.PodMTU,
	}
	if addrs := desired.Current().Underlay; cfg.PodMTU == 0 && cfg.Backend == VXLAN && len(addrs) > 0 {
		o.podMTU = ethernetMTU - overhead(addrs[0]) // until the link is known
	}
	return o
}

// markDirty makes the next Reconcile compare everything.
func (o *Overlay) markDirty() { o.dirty.Store(true) }

// Warnings are empty while every peer can be reached as far as this node knows.
// Otherwise each says what keeps which peer from it and what helps.
func (o *Overlay) Warnings() []string { return o.warnings }

// Reconcile compares the kernel with what is desired where there is reason to, and
// reports whether there was. What goes wrong is kept for Warnings and tried again at
// the next call: the pods of this node work without peers.
func (o *Overlay) Reconcile() (compared bool) {
	if o.probe.collect(o.cfg.Device) {
		o.markDirty()
	}
	compared = o.reconcileIfNeeded()
	if !o.retry {
		o.probe.start(o.cfg.Device, o.wake)
	}
	return compared
}

func (o *Overlay) reconcileIfNeeded() bool {
	desired := o.desired.Current()
	if !o.dirty.Swap(false) && !o.retry && desired.generation == o.checkedGeneration && time.Since(o.checkedAt) < fullCheckEvery {
		return false
	}
	o.checkedAt, o.checkedGeneration = time.Now(), desired.generation
	warnings, err := o.reconcileAll(desired)
	if o.retry = err != nil; err != nil {
		warnings = append(warnings, strings.Split(err.Error(), "\n")...)
	}
	o.warnings = warnings
	return true
}

// reconcileAll returns an error for what may go better next time, and warnings for
// what will not.
func (o *Overlay) reconcileAll(desired DesiredState) (warnings []string, err error) {
	u := underlay{podMTU: o.cfg.PodMTU}
	if o.cfg.Backend != None {
		if u, err = o.measureUnderlay(desired.Underlay); err != nil {
			return nil, err
		}
	}
	if len(u.missing) == 0 || o.podMTU == 0 {
		o.podMTU = u.podMTU
	} else {
		u.mtuWarning = "" // pods' packets need not go by the links that are left
	}
	for _, addr := range u.missing {
		warnings = append(warnings, fmt.Sprintf("no link of this node has its address %s: no peer is reached by it", addr))
	}
	if u.mtuWarning != "" {
		warnings = append(warnings, u.mtuWarning)
	}
	// Until the peers are known, those of the last run may well be right: pods and
	// what they send outlive a restart.
	if !desired.PeersKnown && o.cfg.Backend != None {
		o.filter.update(u, 0, newEntries())
		return warnings, nil
	}
	more, err := o.reconcilePeers(desired, u)
	if o.probe.isSilent() && len(o.probe.targets) > 0 {
		more = append(more, fmt.Sprintf("no other node has answered through the tunnel yet: on all nodes let UDP port %d in from the others, which send to a node's InternalIP from their own (a node with a kernel before 5.14 may be well and give no answer)", o.cfg.Port))
	}
	return append(warnings, more...), err
}

// reconcilePeers brings the kernel's entries for peers in line.
func (o *Overlay) reconcilePeers(desired DesiredState, u underlay) (warnings []string, err error) {
	want := newPlanner(o.cfg, o.kernel, desired, u)
	for _, p := range desired.Peers {
		want.add(p)
	}
	o.probe.setTargets(want.tunnelEnds)
	has, err := o.kernel.inspect(o.cfg.Device, want.routes)
	if err != nil {
		return want.warnings, err
	}
	want.retainLost(has)
	if want.device != nil {
		want.device.txChecksum = !o.probe.mustSwitchOff(probeScope{want.device.local, want.device.parent})
	}
	has, index, devErr := o.reconcileDevice(has, want.device)
	want.setDevice(index, has)
	o.filter.update(u, index, want.entries)
	for _, dst := range slices.SortedFunc(maps.Keys(has.foreign), netip.Prefix.Compare) {
		want.warn("%s: there is a route to its pods' range %s by somebody else (protocol %s), which stays: remove it", want.owner[dst], dst, protocolName(has.foreign[dst]))
	}
	if want.device == nil {
		has.neighs, has.fdb = nil, nil // they go with the device
	}
	p := want.planFrom(has, index)
	o.logPlan(p, desired.generation)
	inUse, err := o.apply(p)
	err = errors.Join(devErr, err)
	switch {
	case want.device != nil || has.device == nil:
		o.unusedSince = time.Time{}
	case o.cfg.Backend != None && (inUse[has.device.index] || want.usesLink(index)): // they would go with it
	default:
		err = errors.Join(err, o.removeUnused(*has.device))
	}
	return want.warnings, err
}

// logPlan logs that entries change, as a repair when nothing else was asked for.
func (o *Overlay) logPlan(p plan, generation int) {
	level, what := slog.LevelInfo, "changing routes and tunnel entries of peers"
	if generation == o.appliedGeneration && !o.retry {
		level, what = slog.LevelWarn, "routes or tunnel entries of peers are not as they were left, restoring them"
	}
	o.appliedGeneration = generation
	if all := slices.Concat(p.sets, p.routeDels, p.entryDels); len(all) > 0 {
		o.log.Log(context.Background(), level, what, "changes", len(all), "first", all[0].text)
	}
}

// reconcileDevice makes or changes the device. It returns what is in the kernel
// afterwards and the device's index, 0 when there is none to use.
func (o *Overlay) reconcileDevice(has kernelState, want *device) (kernelState, int, error) {
	if want == nil {
		index := 0
		if has.device != nil {
			index = has.device.index
		}
		return has, index, nil
	}
	if has.device != nil {
		if reason := want.whyRecreate(*has.device); reason != "" {
			o.log.Warn("making the VXLAN device anew: "+reason, "link", want.name)
			if err := o.kernel.removeDevice(*has.device); err != nil {
				return has, has.device.index, err // better than none
			}
			has = has.withoutDevice(has.device.index)
		} else if reasons := want.differences(*has.device); len(reasons) > 0 {
			o.log.Warn("changing the VXLAN device: "+strings.Join(reasons, ", "), "link", want.name)
		}
	}
	if has.device == nil {
		if err := o.makeDevice(&has, *want); err != nil {
			return has, 0, err
		}
	}
	if err := o.kernel.adjustDevice(*has.device, *want); err != nil {
		return has, has.device.index, fmt.Errorf("changing link %s: %w", want.name, err)
	}
	return has, has.device.index, nil
}

// makeDevice makes the device and adds it to has. Its settings are what the kernel
// gives new links, so they are read back.
func (o *Overlay) makeDevice(has *kernelState, want device) error {
	o.log.Info("making the VXLAN device", "link", want.name, "local", want.local, "mtu", want.mtu)
	index, err := o.kernel.makeDevice(want)
	if err != nil {
		return fmt.Errorf("making link %s: %w", want.name, err)
	}
	fresh, err := o.kernel.inspect(want.name, nil)
	if err != nil || fresh.device == nil {
		return errors.Join(err, fmt.Errorf("link %s went away while it was made (number %d)", want.name, index))
	}
	has.device, has.neighs, has.fdb = fresh.device, fresh.neighs, fresh.fdb
	return nil
}

// apply carries out a plan. It returns the dependencies of steps that failed, which
// stay: a route that cannot be changed goes on by the old entries.
func (o *Overlay) apply(p plan) (inUse map[dependency]bool, err error) {
	inUse = map[dependency]bool{}
	var errs []error
	run := func(steps []step) {
		for _, s := range steps {
			o.log.Debug(s.text)
			if err := s.do(o.kernel); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.text, err))
				for _, d := range s.deps {
					inUse[d] = true
				}
			}
		}
	}
	run(p.sets)
	run(p.routeDels)
	run(slices.DeleteFunc(p.entryDels, func(s step) bool {
		return slices.ContainsFunc(s.deps, func(d dependency) bool { return inUse[d] })
	}))
	return inUse, errors.Join(errs...)
}

// removeUnused removes the device that no peer is reached by any more, after a while.
func (o *Overlay) removeUnused(d device) error {
	if o.unusedSince.IsZero() {
		o.unusedSince = time.Now()
	}
	if left := o.cfg.Linger - time.Since(o.unusedSince); left > 0 && o.cfg.Backend != None {
		time.AfterFunc(left, func() { o.markDirty(); o.wake() })
		return nil
	}
	o.log.Info("removing the VXLAN device, no peer is reached by it", "link", o.cfg.Device)
	return o.kernel.removeDevice(d)
}

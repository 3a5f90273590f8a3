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

	"brink/internal/once"
)

// fullLookEvery is how often the ways to peers are compared with the kernel
// although it told of no change. Notifications that get lost are reported as
// such, so this is for what nobody thought of.
const fullLookEvery = 5 * time.Minute

// ground is what this node stands on.
type ground struct {
	holders map[netip.Addr]link // of its underlay addresses
	device  int                 // MTU of what VXLAN carries
	pods    int                 // MTU of pods
	advice  string              // what is wrong with that, if anything
	lost    []netip.Addr        // underlay addresses that no link has
}

// Overlay keeps the ways to peers in the kernel as they shall be.
type Overlay struct {
	cfg     Config
	kernel  kernel
	close   func() // of the kernel
	desired *Desired
	watch   *watchlist
	probe   *prober
	wake    func() // makes the caller reconcile again
	log     *slog.Logger
	noted   once.Reporter

	unsure atomic.Bool // something changed since the last look, or may have
	retry  bool        // the last look did not end well
	looked time.Time
	idle   time.Time // since when no peer needs the device that is there; zero is not so
	seen   int       // generation of what was desired at the last look
	done   int       // generation of what the kernel was last made like
	mtu    int       // of pods, as far as known

	warnings []string
}

func newOverlay(cfg Config, k kernel, desired *Desired, wake func(), log *slog.Logger) *Overlay {
	o := &Overlay{
		cfg: cfg, kernel: k, close: func() {}, desired: desired, wake: wake, log: log,
		watch: &watchlist{name: []byte(cfg.Device)}, probe: newProber(log),
		noted: once.Reporter{Every: time.Minute}, mtu: cfg.PodMTU,
	}
	if underlay := desired.Current().Underlay; cfg.PodMTU == 0 && cfg.Backend == VXLAN && len(underlay) > 0 {
		o.mtu = ethernetMTU - overhead(underlay[0]) // until the link is known
	}
	return o
}

// beUnsure makes the next Reconcile look.
func (o *Overlay) beUnsure() { o.unsure.Store(true) }

// Warnings are empty while every peer can be reached as far as this node knows, and
// otherwise say what keeps which peers from it and what helps.
func (o *Overlay) Warnings() []string { return o.warnings }

// Reconcile looks when there is reason to, reports whether there was, and keeps what
// went wrong for Warnings. Trouble with peers is no trouble of the pods on this node,
// so it ends nothing.
func (o *Overlay) Reconcile() (looked bool) {
	if o.probe.learn(o.cfg.Device) {
		o.beUnsure()
	}
	looked = o.lookIfUnsure()
	if !o.retry {
		o.probe.begin(o.cfg.Device, o.wake)
	}
	return looked
}

func (o *Overlay) lookIfUnsure() bool {
	desired := o.desired.Current()
	if !o.unsure.Swap(false) && !o.retry && desired.generation == o.seen && time.Since(o.looked) < fullLookEvery {
		return false
	}
	o.looked, o.seen = time.Now(), desired.generation
	warnings, err := o.look(desired)
	if o.retry = err != nil; err != nil {
		warnings = append(warnings, strings.Split(err.Error(), "\n")...)
	}
	o.warnings = warnings
	return true
}

// look compares the kernel with what is wished for and changes what differs. Its
// error is of what may go better next time, the warnings of what will not.
func (o *Overlay) look(w DesiredState) (warnings []string, err error) {
	g := ground{pods: o.cfg.PodMTU}
	if o.cfg.Backend != None {
		if g, err = o.stand(w.Underlay); err != nil {
			return nil, err
		}
	}
	if len(g.lost) == 0 || o.mtu == 0 {
		o.mtu = g.pods
	} else {
		g.advice = "" // what is left need not be what pods' packets go by
	}
	for _, addr := range g.lost {
		warnings = append(warnings, fmt.Sprintf("no link of this node has its address %s: no peer is reached by it", addr))
	}
	if g.advice != "" {
		warnings = append(warnings, g.advice)
	}
	// Until somebody has said which peers there are, those of the last run may
	// well be: pods and what they send outlive a restart.
	if !w.PeersKnown && o.cfg.Backend != None {
		o.watch.set(g, 0, newWays())
		return warnings, nil
	}
	more, err := o.reach(w, g)
	if o.probe.isSilent() && len(o.probe.targets) > 0 {
		more = append(more, fmt.Sprintf("no other node has answered through the tunnel yet: on all nodes let UDP port %d in from the others, who send to a node's InternalIP, from their own (one with a kernel before 5.14 may give no answer and be well)", o.cfg.Port))
	}
	return append(warnings, more...), err
}

// reach brings the kernel's ways to peers in line.
func (o *Overlay) reach(w DesiredState, g ground) (warnings []string, err error) {
	want := newWantedWays(o.cfg, o.kernel, w, g)
	for _, p := range w.Peers {
		want.add(p)
	}
	o.probe.ask(want.ends)
	has, err := o.kernel.look(o.cfg.Device, want.routes)
	if err != nil {
		return want.warnings, err
	}
	want.keepLost(has)
	if want.device != nil {
		want.device.checksum = !o.probe.mustBeOff(probed{want.device.local, want.device.parent})
	}
	has, index, devErr := o.keepDevice(has, want.device)
	want.place(index, has)
	o.watch.set(g, index, want.ways)
	for _, dst := range slices.SortedFunc(maps.Keys(has.foreign), netip.Prefix.Compare) {
		want.warn("%s: there is a route to its pods' range %s by somebody else (protocol %s), which stays: remove it", want.owner[dst], dst, protocolName(has.foreign[dst]))
	}
	if want.device == nil {
		has.neighs, has.fdb = nil, nil // they go with the device
	}
	p := want.planFrom(has, index)
	o.tell(p, w)
	stays, err := o.apply(p)
	err = errors.Join(devErr, err)
	if want.device != nil || has.device == nil {
		o.idle = time.Time{}
	} else if !stays[has.device.index] && !want.uses(index) || o.cfg.Backend == None { // routes go with it
		err = errors.Join(err, o.retire(*has.device))
	}
	return want.warnings, err
}

// tell logs that ways change, as a repair when nobody wished for it.
func (o *Overlay) tell(p plan, w DesiredState) {
	level, what := slog.LevelInfo, "changing the ways to peers"
	if w.generation == o.done && !o.retry {
		level, what = slog.LevelWarn, "ways to peers are not as they were left, restoring them"
	}
	o.done = w.generation
	if all := slices.Concat(p.set, p.unway, p.unset); len(all) > 0 {
		o.note(level, what, "changes", len(all), "first", all[0].text)
	}
}

// note logs a line, and one that is the same within a minute for debugging only:
// what keeps failing is looked at every ten seconds, and at each event.
func (o *Overlay) note(level slog.Level, what string, attrs ...any) {
	if !o.noted.Changed(what, fmt.Sprint(attrs...)) {
		level = slog.LevelDebug
	}
	o.log.Log(context.Background(), level, what, attrs...)
}

// keepDevice makes or changes the device, and returns what is there afterwards
// and the device's index, 0 when there is none to use.
func (o *Overlay) keepDevice(has found, want *device) (found, int, error) {
	if want == nil {
		index := 0
		if has.device != nil {
			index = has.device.index
		}
		return has, index, nil
	}
	if has.device != nil {
		if reason := want.remake(*has.device); reason != "" {
			o.note(slog.LevelWarn, "making the VXLAN device anew: "+reason, "link", want.name)
			if err := o.kernel.removeDevice(*has.device); err != nil {
				return has, has.device.index, err // better than none
			}
			has = has.afterDevice(has.device.index)
		} else if reasons := want.adjust(*has.device); len(reasons) > 0 {
			o.note(slog.LevelWarn, "changing the VXLAN device: "+strings.Join(reasons, ", "), "link", want.name)
		}
	}
	if has.device == nil {
		o.note(slog.LevelInfo, "making the VXLAN device", "link", want.name, "local", want.local, "mtu", want.mtu)
		index, err := o.kernel.makeDevice(*want)
		if err != nil {
			return has, 0, fmt.Errorf("making link %s: %w", want.name, err)
		}
		// Its settings are what the kernel gives new links, so they are looked at.
		fresh, err := o.kernel.look(want.name, nil)
		if err != nil || fresh.device == nil {
			return has, 0, errors.Join(err, fmt.Errorf("link %s went away while it was made (number %d)", want.name, index))
		}
		has.device, has.neighs, has.fdb = fresh.device, fresh.neighs, fresh.fdb
	}
	if err := o.kernel.adjustDevice(*has.device, *want); err != nil {
		return has, has.device.index, fmt.Errorf("changing link %s: %w", want.name, err)
	}
	return has, has.device.index, nil
}

// apply takes the steps of a plan and returns what must stay: a way that cannot be
// changed goes on by the old parts.
func (o *Overlay) apply(p plan) (stays map[part]bool, err error) {
	stays = map[part]bool{}
	var errs []error
	take := func(steps []step) {
		for _, s := range steps {
			o.log.Debug(s.text)
			if err := s.do(o.kernel); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.text, err))
				for _, part := range s.parts {
					stays[part] = true
				}
			}
		}
	}
	take(p.set)
	take(p.unway)
	take(slices.DeleteFunc(p.unset, func(s step) bool {
		return slices.ContainsFunc(s.parts, func(part part) bool { return stays[part] })
	}))
	return stays, errors.Join(errs...)
}

// retire removes the device that no peer is reached by any more, after a while.
func (o *Overlay) retire(d device) error {
	if o.idle.IsZero() {
		o.idle = time.Now()
	}
	if left := o.cfg.Linger - time.Since(o.idle); left > 0 && o.cfg.Backend != None {
		time.AfterFunc(left, func() { o.beUnsure(); o.wake() })
		return nil
	}
	o.log.Info("removing the VXLAN device, no peer is reached by it", "link", o.cfg.Device)
	return o.kernel.removeDevice(d)
}

package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// fullLookEvery is how often the ways to peers are compared with the kernel
// although it told of no change. Notifications that get lost are reported as
// such, so this is for what nobody thought of.
const fullLookEvery = 5 * time.Minute

// lingerFor is how long the device stays when no peer is reached by it any more:
// peers that have not heard yet that there is a direct way go on sending by theirs.
// They hear within seconds, and a server that is away may take as long to be back.
const lingerFor = 30 * time.Second

// wish is what was asked for from outside: the peers, nil as long as nobody has
// said which there are, and this node's own addresses.
type wish struct {
	peers    []Peer
	known    bool
	underlay []netip.Addr
	number   int // raised with each change
}

// ground is what this node stands on.
type ground struct {
	holders map[netip.Addr]link // of its underlay addresses
	device  int                 // MTU of what VXLAN carries
	pods    int                 // MTU of pods
	advice  string              // what is wrong with that, if anything
	lost    []netip.Addr        // underlay addresses that no link has
}

// peerKeeper keeps the ways to peers in the kernel as they shall be.
type peerKeeper struct {
	noted map[string]noted // the last lines of note

	cfg    Config
	kernel kernel
	watch  *watchlist
	probe  *prober
	linger time.Duration // lingerFor
	wake   func()        // makes the loop call reconcile

	mu       sync.Mutex
	wish     wish
	warnings []string

	unsure atomic.Bool // something changed since the last look, or may have
	retry  bool        // the last look did not end well
	looked time.Time
	idle   time.Time       // since when no peer needs the device that is there; zero is not so
	done   int             // number of the wish that was looked at last
	mtu    int             // of pods, as far as known
	said   map[string]bool // warnings that have been logged
}

func newPeerKeeper(cfg Config, wake func()) *peerKeeper {
	k := &peerKeeper{
		noted: map[string]noted{},
		cfg:   cfg, mtu: cfg.MTU, wish: wish{underlay: cfg.Underlay}, done: -1, wake: wake,
		watch: &watchlist{name: []byte(cfg.VXLANDevice)}, probe: newProber(), linger: lingerFor,
	}
	if cfg.MTU == 0 && cfg.Backend == VXLAN && len(cfg.Underlay) > 0 {
		k.mtu = ethernetMTU - overhead(cfg.Underlay[0]) // until the link is known
	}
	k.beUnsure()
	return k
}

// beUnsure makes the next reconcile look.
func (k *peerKeeper) beUnsure() { k.unsure.Store(true) }

// setPeers tells whether that was news.
func (k *peerKeeper) setPeers(peers []Peer) bool {
	peers = slices.Clone(peers)
	slices.SortStableFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wish.known && slices.EqualFunc(peers, k.wish.peers, Peer.equal) {
		return false
	}
	k.wish.peers, k.wish.known = peers, true
	k.wish.number++
	k.beUnsure()
	return true
}

func (k *peerKeeper) setUnderlay(addrs []netip.Addr) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Equal(addrs, k.wish.underlay) {
		return false
	}
	k.wish.underlay = slices.Clone(addrs)
	k.wish.number++
	k.beUnsure()
	return true
}

func (k *peerKeeper) wished() wish {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wish
}

// err is what keeps peers from being reached.
func (k *peerKeeper) err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, w := range k.warnings {
		errs = append(errs, errors.New(w))
	}
	return errors.Join(errs...)
}

// reconcile looks when there is reason to, and keeps what went wrong for err.
// Trouble with peers is no trouble of the pods on this node, so it ends nothing.
func (k *peerKeeper) reconcile() {
	if k.probe.learn(k.cfg.VXLANDevice) {
		k.beUnsure()
	}
	k.lookIfUnsure()
	if !k.retry {
		k.probe.begin(k.cfg.VXLANDevice, k.wake)
	}
}

func (k *peerKeeper) lookIfUnsure() {
	if !k.unsure.Swap(false) && !k.retry && time.Since(k.looked) < fullLookEvery {
		return
	}
	k.looked = time.Now()
	warnings, err := k.look(k.wished())
	if k.retry = err != nil; err != nil {
		warnings = append(warnings, strings.Split(err.Error(), "\n")...)
	}
	k.report(append(warnings, k.strangers()...))
}

// report logs each warning when it first comes, not as long as it stays.
func (k *peerKeeper) report(warnings []string) {
	k.mu.Lock()
	k.warnings = warnings
	k.mu.Unlock()
	said := map[string]bool{}
	for _, w := range warnings {
		if !k.said[w] && !said[w] {
			slog.Warn(w, "component", componentName)
		}
		said[w] = true
	}
	if len(k.said) > 0 && len(said) == 0 {
		slog.Info("what was said of peers does not hold any more", "component", componentName)
	}
	k.said = said
}

// look compares the kernel with what is wished for and changes what differs. Its
// error is of what may go better next time, the warnings of what will not.
func (k *peerKeeper) look(w wish) (warnings []string, err error) {
	g := ground{pods: k.cfg.MTU}
	if k.cfg.Backend != None {
		if g, err = k.stand(w.underlay); err != nil {
			return nil, err
		}
	}
	if len(g.lost) == 0 || k.mtu == 0 {
		k.mtu = g.pods
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
	if !w.known && k.cfg.Backend != None {
		k.watch.set(g, 0, newWays())
		return warnings, nil
	}
	more, err := k.reach(w, g)
	if k.probe.isSilent() && len(k.probe.targets) > 0 {
		more = append(more, fmt.Sprintf("no other node has answered through the tunnel yet: on all nodes let UDP port %d in from the others, who send to a node's InternalIP, from their own (one with a kernel before 5.14 may give no answer and be well)", k.cfg.VXLANPort))
	}
	return append(warnings, more...), err
}

// reach brings the kernel's ways to peers in line.
func (k *peerKeeper) reach(w wish, g ground) (warnings []string, err error) {
	want := newWantedWays(k.cfg, k.kernel, w, g)
	for _, p := range w.peers {
		want.add(p)
	}
	k.probe.ask(want.ends)
	has, err := k.kernel.look(k.cfg.VXLANDevice, want.routes)
	if err != nil {
		return want.warnings, err
	}
	want.keepLost(has)
	if want.device != nil {
		want.device.checksum = !k.probe.mustBeOff(probed{want.device.local, want.device.parent})
	}
	has, index, devErr := k.keepDevice(has, want.device)
	want.place(index, has)
	k.watch.set(g, index, want.ways)
	for _, dst := range slices.SortedFunc(maps.Keys(has.foreign), netip.Prefix.Compare) {
		want.warn("%s: there is a route to its pods' range %s by somebody else (protocol %s), which stays: remove it", want.owner[dst], dst, protocolName(has.foreign[dst]))
	}
	if want.device == nil {
		has.neighs, has.fdb = nil, nil // they go with the device
	}
	p := want.planFrom(has, index)
	k.tell(p, w)
	stays, err := k.apply(p)
	err = errors.Join(devErr, err)
	if want.device != nil || has.device == nil {
		k.idle = time.Time{}
	} else if !stays[has.device.index] && !want.uses(index) || k.cfg.Backend == None { // routes go with it
		err = errors.Join(err, k.retire(*has.device))
	}
	return want.warnings, err
}

// tell logs that ways change, as a repair when nobody wished for it.
func (k *peerKeeper) tell(p plan, w wish) {
	level, what := slog.LevelInfo, "changing the ways to peers"
	if w.number == k.done && !k.retry {
		level, what = slog.LevelWarn, "ways to peers are not as they were left, restoring them"
	}
	k.done = w.number
	if all := slices.Concat(p.set, p.unway, p.unset); len(all) > 0 {
		k.note(level, what, "changes", len(all), "first", all[0].text)
	}
}

// noted is a line and when it was logged.
type noted struct {
	text string
	at   time.Time
}

// note logs a line, and one that is the same within a minute for debugging only:
// what keeps failing is looked at every ten seconds, and at each event.
func (k *peerKeeper) note(level slog.Level, what string, attrs ...any) {
	text := fmt.Sprint(attrs...)
	if last := k.noted[what]; last.text == text && time.Since(last.at) < time.Minute {
		level = slog.LevelDebug
	} else {
		k.noted[what] = noted{text, time.Now()}
	}
	slog.Log(context.Background(), level, what, append([]any{"component", componentName}, attrs...)...)
}

// keepDevice makes or changes the device, and returns what is there afterwards
// and the device's index, 0 when there is none to use.
func (k *peerKeeper) keepDevice(has found, want *device) (found, int, error) {
	if want == nil {
		index := 0
		if has.device != nil {
			index = has.device.index
		}
		return has, index, nil
	}
	if has.device != nil {
		if reason := want.remake(*has.device); reason != "" {
			k.note(slog.LevelWarn, "making the VXLAN device anew: "+reason, "link", want.name)
			if err := k.kernel.removeDevice(*has.device); err != nil {
				return has, has.device.index, err // better than none
			}
			has = has.afterDevice(has.device.index)
		} else if reasons := want.adjust(*has.device); len(reasons) > 0 {
			k.note(slog.LevelWarn, "changing the VXLAN device: "+strings.Join(reasons, ", "), "link", want.name)
		}
	}
	if has.device == nil {
		k.note(slog.LevelInfo, "making the VXLAN device", "link", want.name, "local", want.local, "mtu", want.mtu)
		index, err := k.kernel.makeDevice(*want)
		if err != nil {
			return has, 0, fmt.Errorf("making link %s: %w", want.name, err)
		}
		// Its settings are what the kernel gives new links, so they are looked at.
		fresh, err := k.kernel.look(want.name, nil)
		if err != nil || fresh.device == nil {
			return has, 0, errors.Join(err, fmt.Errorf("link %s went away while it was made (number %d)", want.name, index))
		}
		has.device, has.neighs, has.fdb = fresh.device, fresh.neighs, fresh.fdb
	}
	if err := k.kernel.adjustDevice(*has.device, *want); err != nil {
		return has, has.device.index, fmt.Errorf("changing link %s: %w", want.name, err)
	}
	return has, has.device.index, nil
}

// apply takes the steps of a plan and returns what must stay: a way that cannot be
// changed goes on by the old parts.
func (k *peerKeeper) apply(p plan) (stays map[part]bool, err error) {
	stays = map[part]bool{}
	var errs []error
	take := func(steps []step) {
		for _, s := range steps {
			slog.Debug(s.text, "component", componentName)
			if err := s.do(k.kernel); err != nil {
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
func (k *peerKeeper) retire(d device) error {
	if k.idle.IsZero() {
		k.idle = time.Now()
	}
	if left := k.linger - time.Since(k.idle); left > 0 && k.cfg.Backend != None {
		time.AfterFunc(left, func() { k.beUnsure(); k.wake() })
		return nil
	}
	slog.Info("removing the VXLAN device, no peer is reached by it", "component", componentName, "link", k.cfg.VXLANDevice)
	return k.kernel.removeDevice(d)
}

package overlay

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Some network hardware promises to fill in checksums of packets within a tunnel
// and does not: everything of UDP and TCP that leaves is thrown away by the
// receiver, while ping, whose checksum the sender computes itself, works. The
// prober tells this from other trouble by asking the end of a peer's tunnel:
//
//	echo answered?  --no-->  peer not reached: nothing learnt, later another one
//	  | yes
//	UDP answered?  --yes-->  all is well
//	  | no
//	offload off on our device; UDP answered now?  --yes-->  once more from the
//	  | no                                                    start, then it stays off
//	offload on again: it was something else, such as a firewall; later another one
//
// It asks once more because a link that was dead for the seconds of the first question
// looks the same.
//
// UDP goes to ports that are closed, where the answer is ICMP's "port
// unreachable". Once the verdict is known, nothing is sent until the underlay changes.
//
// Peers with a kernel before 5.14 do not answer if their bridge is older than the
// device: they take the first address of its prefix for a broadcast address, as BSD
// did. Nothing is learnt from them.

const (
	probeTries   = 3
	probeTimeout = time.Second // for each answer
	// probeRounds is how often the same must be seen before hardware is distrusted.
	probeRounds = 2
	// probePort is the first of traceroute's ports: firewalls may know them, and nobody
	// listens there. Each datagram takes the next.
	probePort = 33434

	// silentProbes is after how many probes without an answer a warning comes: the third
	// is half a minute after the first.
	silentProbes = 3

	firstProbeAgain = 10 * time.Second // doubled each time
	lastProbeAgain  = time.Hour
	// lastSilentAgain is shorter, so that the warning ends soon after its cause.
	lastSilentAgain = 5 * time.Minute
)

// verdict is what a probe found.
type verdict string

const (
	works      verdict = "checksums arrive right"
	broken     verdict = "checksums arrive wrong with offload and right without"
	unreached  verdict = "the peer does not answer"
	unanswered verdict = "the peer answers echo requests only"
)

// probeScope is what a verdict applies to: the hardware is the carrier's.
type probeScope struct {
	local  netip.Addr
	parent int
}

// prober decides when to probe, and remembers what came out.
type prober struct {
	log     *slog.Logger
	timeout time.Duration
	scope   probeScope
	targets []netip.Addr // ends of peers' tunnels
	settled bool
	off     bool // the offload must be off
	tries   int
	silent  int // probes in a row that nobody answered
	next    time.Time

	cancel  context.CancelFunc // of the probe that runs, else nil
	running sync.WaitGroup
	result  chan verdict
}

func newProber(log *slog.Logger) *prober {
	return &prober{log: log, timeout: probeTimeout, result: make(chan verdict, 1)}
}

// mustSwitchOff reports whether a device of this scope needs its offload off. For
// another scope than before, what was found does not hold.
func (p *prober) mustSwitchOff(scope probeScope) bool {
	if scope != p.scope {
		p.stop()
		p.scope, p.settled, p.off, p.tries, p.silent, p.next = scope, false, false, 0, 0, time.Time{}
	}
	return p.off
}

// stop ends a probe that runs. The device is left as it was before.
func (p *prober) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.running.Wait()
	<-p.result
	p.cancel = nil
}

// setTargets replaces the list of those that may be asked. A new one is asked at once,
// and is not taken for silent because others were.
func (p *prober) setTargets(targets []netip.Addr) {
	fresh, known := slices.Clone(targets), slices.Clone(p.targets)
	fresh = slices.DeleteFunc(fresh, func(a netip.Addr) bool { return slices.Contains(known, a) })
	known = slices.DeleteFunc(known, func(a netip.Addr) bool { return !slices.Contains(targets, a) })
	if len(fresh) > 0 {
		p.tries, p.silent, p.next = 0, 0, time.Time{}
	}
	p.targets = slices.Concat(fresh, known)
}

// isSilent reports whether several probes had no answer, for a time in which machines
// that were switched on together have all started.
func (p *prober) isSilent() bool { return p.silent >= silentProbes }

// collect takes in the result of a probe that has ended. It reports whether the device
// or the warnings have to change.
func (p *prober) collect(link string) (changed bool) {
	wasSilent := p.isSilent()
	select {
	case v := <-p.result:
		p.cancel()
		p.cancel = nil
		p.log.Debug("probed checksums", "link", link, "result", v)
		if p.silent++; v != unreached {
			p.silent = 0
		}
		switch v {
		case works:
			p.settled = true
		case broken:
			p.settled, p.off = true, true
			p.log.Warn("UDP and TCP reached no peer until checksum offload was switched off on the VXLAN device: the network hardware does not fill in checksums within the tunnel. It stays off", "link", link)
			return true
		default:
			last := lastProbeAgain
			if v == unreached {
				last = lastSilentAgain
			}
			p.next = time.Now().Add(min(firstProbeAgain<<min(p.tries, 20), last))
			p.tries++
		}
	default:
	}
	return p.isSilent() != wasSilent
}

// start probes one of the targets, the newest first, unless there is nothing to find
// out now. When the probe ends, done is called. It acts in the network namespace of
// the thread.
func (p *prober) start(link string, done func()) {
	if p.settled || p.cancel != nil || len(p.targets) == 0 || time.Now().Before(p.next) {
		return
	}
	probe, err := openProbe(p.log, link, p.targets[p.tries%len(p.targets)], p.timeout)
	if err != nil {
		p.log.Debug("probing checksums", "error", err)
		p.next = time.Now().Add(lastSilentAgain)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	if err := probe.mark.restore(probe.offload); err != nil {
		p.log.Warn("switching checksum offload on again", "error", err)
	}
	// What a probe of an earlier run found is still in force.
	if on, err := probe.offload.isOn(); err == nil && !on {
		p.off = true
	}
	off := p.off
	p.running.Go(func() {
		stop := context.AfterFunc(ctx, probe.abort)
		defer stop()
		v := probe.run(off)
		probe.close()
		p.result <- v
		done()
	})
}

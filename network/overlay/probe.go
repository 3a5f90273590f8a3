package overlay

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
// Once more, because a link that was dead for the seconds of the first question
// looks the same.
//
// UDP goes to ports that are closed, where the answer is ICMP's "port
// unreachable". Once it is known, nothing is sent until the underlay changes.
//
// Peers with a kernel before 5.14 do not answer where their bridge was there
// before the device: they take the first address of its prefix for a broadcast
// address, as BSD did. Nothing is learnt from them.

const (
	probeTries   = 3
	probeTimeout = time.Second // for each answer
	// probeRounds is how often the same must be seen before hardware is distrusted.
	probeRounds = 2
	// The ports are traceroute's: whoever filters may know them, and nobody
	// listens there. Each datagram takes the next.
	probePort = 33434

	// silentProbes is how many must have had no answer to be told: the third is half
	// a minute after the first.
	silentProbes = 3

	firstProbeAgain = 10 * time.Second // doubled each time
	lastProbeAgain  = time.Hour
	// lastSilentAgain is shorter: what is told must not be told long after it was mended.
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

// probed is to what a verdict applies: the hardware is the carrier's.
type probed struct {
	local  netip.Addr
	parent int
}

// prober decides when to probe, and remembers what came out.
type prober struct {
	log     *slog.Logger
	timeout time.Duration
	of      probed
	targets []netip.Addr // ends of peers' tunnels
	settled bool
	off     bool // the offload must be off
	tries   int
	silent  int // probes one after the other that nobody answered
	next    time.Time

	cancel  context.CancelFunc // of the probe that runs, else nil
	running sync.WaitGroup
	result  chan verdict
}

func newProber(log *slog.Logger) *prober {
	return &prober{log: log, timeout: probeTimeout, result: make(chan verdict, 1)}
}

// mustBeOff tells whether a device on this ground needs its offload off. Other
// ground makes what was found worthless.
func (p *prober) mustBeOff(of probed) bool {
	if of != p.of {
		p.stop()
		p.of, p.settled, p.off, p.tries, p.silent, p.next = of, false, false, 0, 0, time.Time{}
	}
	return p.off
}

// stop ends a probe that runs; the device is left as it was before.
func (p *prober) stop() {
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.running.Wait()
	<-p.result
	p.cancel = nil
}

// ask says who may be asked. Somebody new is asked at once, and what the others did
// not answer is not said of it.
func (p *prober) ask(targets []netip.Addr) {
	fresh, known := slices.Clone(targets), slices.Clone(p.targets)
	fresh = slices.DeleteFunc(fresh, func(a netip.Addr) bool { return slices.Contains(known, a) })
	known = slices.DeleteFunc(known, func(a netip.Addr) bool { return !slices.Contains(targets, a) })
	if len(fresh) > 0 {
		p.tries, p.silent, p.next = 0, 0, time.Time{}
	}
	p.targets = slices.Concat(fresh, known)
}

// isSilent tells that nobody has answered so far, of several and for a time in which
// machines that were switched on together have all started.
func (p *prober) isSilent() bool { return p.silent >= silentProbes }

// learn takes in the result of a probe that has ended, and tells whether the
// device has to change, or what is to be said of it.
func (p *prober) learn(link string) (changed bool) {
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
			p.log.Warn("UDP and TCP reached no peer until checksum offload was switched off on the VXLAN device: the network hardware does not fill in checksums within the tunnel. It stays off",
				"link", link)
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

// begin probes one of the targets, the newest first, unless there is nothing to find
// out now. When the probe ends, done is called. It acts in the network namespace of
// the thread.
func (p *prober) begin(link string, done func()) {
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
	if err := probe.mark.undo(probe.offload); err != nil {
		p.log.Warn("switching checksum offload on again", "error", err)
	}
	// What a probe of an earlier run found is still in force.
	if on, err := probe.offload.isOn(); err == nil && !on {
		p.off = true
	}
	off := p.off
	p.running.Go(func() {
		stop := context.AfterFunc(ctx, probe.giveUp)
		defer stop()
		v := probe.run(off)
		probe.close()
		p.result <- v
		done()
	})
}

// probe is one question to the end of one peer's tunnel.
type probe struct {
	log     *slog.Logger
	offload checksumOffload
	mark    *provisional
	echo    *net.IPConn
	udp     []net.Conn // one for each datagram
	asked   int        // how many of them were used
	to      netip.Addr
	timeout time.Duration
}

func openProbe(log *slog.Logger, link string, to netip.Addr, timeout time.Duration) (p *probe, err error) {
	p = &probe{log: log, to: to, timeout: timeout}
	if p.offload, err = openChecksumOffload(link); err != nil {
		return nil, err
	}
	if p.mark, err = openProvisional(link); err != nil {
		p.offload.close()
		return nil, err
	}
	opened := p // what is returned is nil then
	defer func() {
		if err != nil {
			opened.close()
		}
	}()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), link) }), err)
	}}
	network := "ip4:icmp"
	if to.Is6() {
		network = "ip6:ipv6-icmp"
	}
	conn, err := dialer.Dial(network, to.String())
	if err != nil {
		return nil, err
	}
	p.echo = conn.(*net.IPConn)
	for n := range 2 * probeRounds * probeTries {
		conn, err := dialer.Dial("udp", netip.AddrPortFrom(to, probePort+uint16(n)).String())
		if err != nil {
			return nil, err
		}
		p.udp = append(p.udp, conn)
	}
	return p, nil
}

func (p *probe) close() {
	p.giveUp()
	p.offload.close()
	p.mark.close()
}

// giveUp makes what waits for an answer return.
func (p *probe) giveUp() {
	if p.echo != nil {
		p.echo.Close()
	}
	for _, c := range p.udp {
		c.Close()
	}
}

// run asks. Unless the verdict says that the offload is broken, it is left as it
// was.
func (p *probe) run(alreadyOff bool) verdict {
	if !p.echoes() {
		return unreached
	}
	for range probeRounds {
		if p.refuses() {
			return works
		}
		if alreadyOff || !p.answeredWithout() {
			return unanswered
		}
	}
	if p.offload.switchOff() != nil {
		return unanswered
	}
	return broken
}

// answeredWithout asks while the offload is off.
func (p *probe) answeredWithout() bool {
	if p.mark.begin() != nil || p.offload.switchOff() != nil {
		return false
	}
	answered := p.refuses()
	if err := errors.Join(p.offload.switchOn(), p.mark.end()); err != nil {
		p.log.Warn("switching checksum offload on again", "error", err)
	}
	return answered
}

// echoes tells whether an echo request is answered.
func (p *probe) echoes() bool {
	answer := make([]byte, 256)
	for try := range probeTries {
		if _, err := p.echo.Write(echoRequest(p.to, uint16(try))); err != nil && errors.Is(err, net.ErrClosed) {
			return false
		}
		for deadline := time.Now().Add(p.timeout); ; {
			_ = p.echo.SetReadDeadline(deadline)
			n, _, err := p.echo.ReadFrom(answer)
			if errors.Is(err, net.ErrClosed) {
				return false
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err == nil && n >= 8 && (answer[0] == 0 || answer[0] == 129) && binary.BigEndian.Uint16(answer[4:]) == probePort {
				return true
			}
		}
	}
	return false
}

// echoRequest is an ICMP message (RFC 792, RFC 4443). The kernel fills in the
// checksum of ICMPv6 itself, on raw sockets in software.
func echoRequest(to netip.Addr, sequence uint16) []byte {
	b := make([]byte, 8)
	b[0] = 128
	binary.BigEndian.PutUint16(b[4:], probePort)
	binary.BigEndian.PutUint16(b[6:], sequence)
	if to.Is4() {
		b[0] = 8
		sum := uint32(b[0])<<8 + probePort + uint32(sequence)
		binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	}
	return b
}

// refuses tells whether a datagram to a closed port is answered. Each has a socket
// of its own, so that a late answer is not taken for one to a later question.
func (p *probe) refuses() bool {
	for range probeTries {
		conn := p.udp[p.asked]
		p.asked++
		if _, err := conn.Write([]byte("brink: do you get this?")); err != nil {
			continue
		}
		_ = conn.SetReadDeadline(time.Now().Add(p.timeout))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, unix.ECONNREFUSED) {
			return true
		}
	}
	return false
}

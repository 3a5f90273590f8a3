package overlay

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probe finds out whether one peer's end of the tunnel gets what this node sends.
type probe struct {
	log     *slog.Logger
	offload checksumOffload
	mark    *probeMark
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
	if p.mark, err = openProbeMark(link); err != nil {
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
	p.abort()
	p.offload.close()
	p.mark.close()
}

// abort makes calls that wait for an answer return.
func (p *probe) abort() {
	if p.echo != nil {
		p.echo.Close()
	}
	for _, c := range p.udp {
		c.Close()
	}
}

// run asks the peer. It leaves the offload as it was, unless the verdict is that it is
// broken.
func (p *probe) run(alreadyOff bool) verdict {
	if !p.echoAnswered() {
		return unreached
	}
	for range probeRounds {
		if p.udpAnswered() {
			return works
		}
		if alreadyOff || !p.answersWithoutOffload() {
			return unanswered
		}
	}
	if p.offload.switchOff() != nil {
		return unanswered
	}
	return broken
}

// answersWithoutOffload reports whether UDP is answered while the offload is off.
func (p *probe) answersWithoutOffload() bool {
	if p.mark.begin() != nil || p.offload.switchOff() != nil {
		return false
	}
	answered := p.udpAnswered()
	if err := errors.Join(p.offload.switchOn(), p.mark.end()); err != nil {
		p.log.Warn("switching checksum offload on again", "error", err)
	}
	return answered
}

// echoAnswered reports whether an echo request is answered.
func (p *probe) echoAnswered() bool {
	path := make([]byte, 256)
	for try := range probeTries {
		if _, err := p.echo.Write(echoRequest(p.to, uint16(try))); err != nil && errors.Is(err, net.ErrClosed) {
			return false
		}
		for deadline := time.Now().Add(p.timeout); ; {
			_ = p.echo.SetReadDeadline(deadline)
			n, _, err := p.echo.ReadFrom(path)
			if errors.Is(err, net.ErrClosed) {
				return false
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err == nil && n >= 8 && (path[0] == 0 || path[0] == 129) && binary.BigEndian.Uint16(path[4:]) == probePort {
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

// udpAnswered reports whether a datagram to a closed port is answered. Each datagram
// has a socket of its own, so that a late answer is not taken for one to a later one.
func (p *probe) udpAnswered() bool {
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

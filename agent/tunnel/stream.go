package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"brink/internal/wire/tunnelwire"
	"brink/network/nodeaddr"
)

// targetTimeout bounds connecting to a kubelet or pod of this node.
const targetTimeout = 10 * time.Second

// stream serves one connection of the server to a target.
func (l *link) stream(w http.ResponseWriter, r *http.Request) {
	target, err := l.tunnels.target(r)
	if err != nil {
		l.log.Debug("target refused", "target", r.Host, "error", err)
		http.Error(w, err.Error(), tunnelwire.StatusRefused)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), targetTimeout)
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.String())
	cancel()
	if err != nil && r.Context().Err() != nil {
		// The tunnel ends, or the server does not want the stream any more: that says
		// nothing of the target, and the server may have another tunnel.
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		l.log.Debug("target not reached", "target", r.Host, "error", err)
		http.Error(w, err.Error(), tunnelwire.StatusUnreachable)
		return
	}
	defer conn.Close()
	if err := join(w, r, conn); err != nil {
		// The server must not take a truncated answer for a complete one.
		panic(http.ErrAbortHandler)
	}
}

// join copies bytes both ways until one side has ended. The error is the target's.
func join(w http.ResponseWriter, r *http.Request, target net.Conn) error {
	answer := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := answer.Flush(); err != nil {
		return err
	}
	go func() {
		// Without ReadFrom and WriteTo, which would take a larger buffer.
		_, _ = io.CopyBuffer(struct{ io.Writer }{target}, struct{ io.Reader }{r.Body}, make([]byte, tunnelwire.FrameSize))
		target.Close() // the server has ended it
	}()
	buf := make([]byte, tunnelwire.FrameSize)
	for {
		n, err := target.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := answer.Flush(); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case err == io.EOF, errors.Is(err, net.ErrClosed):
			return nil
		default:
			return err
		}
	}
}

// target returns the address that a request asks for, if that is allowed.
func (t *Tunnels) target(r *http.Request) (netip.AddrPort, error) {
	if r.Method != http.MethodConnect {
		return netip.AddrPort{}, fmt.Errorf("a tunnel knows CONNECT, not %s", r.Method)
	}
	if r.Host == tunnelwire.Kubelet {
		return t.cfg.Kubelet, nil
	}
	target, err := netip.ParseAddrPort(r.Host)
	if err != nil {
		return target, fmt.Errorf("target %q: %w", r.Host, err)
	}
	ip := target.Addr().Unmap()
	if !t.allowed(ip) || target.Port() == 0 {
		return target, fmt.Errorf("target %s: is neither the kubelet nor a pod nor an address of this node", target)
	}
	return netip.AddrPortFrom(ip, target.Port()), nil
}

func (t *Tunnels) allowed(ip netip.Addr) bool {
	if !nodeaddr.IsRoutable(ip) { // even if it is in the lists below
		return false
	}
	if t.cfg.PodCIDRs != nil && slices.ContainsFunc(t.cfg.PodCIDRs(), func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return true
	}
	return t.cfg.NodeIPs != nil && slices.Contains(t.cfg.NodeIPs(), ip)
}

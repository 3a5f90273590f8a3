package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestServerMoves: DHCP gives a server another address. It ends, is started again as a
// service manager does, and is found where it is now; its pods do not notice.
func TestServerMoves(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	old := n.Addr
	if err := n.moveTo(t); err != nil {
		t.Fatal(err)
	}
	n.ends(t, n.Addr.String(), old.String(), "start brink again")
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns.mustEqual("the node's address", n.object(t).Status.Addresses[0].Address, n.Addr.String())
	ns.eventually("a pod to find the API by its Service", func() error {
		said, err := ns.tryKubectl("exec", "box", "--", "sh", "-c", "nc -w 10 10.43.0.1 443 < /dev/null && echo there")
		return errors.Join(err, contains(said, "there"))
	})
	ns.mustContain(ns.kubectl("--server", "https://"+n.Addr.String()+":6443", "get", "nodes"), n.ID)
	if pod := ns.readyPod("box"); restarts(pod) != 0 {
		t.Errorf("the pod was started again %d times", restarts(pod))
	}
}

// moveTo gives the machine another address, as a DHCP server does.
func (n *node) moveTo(t *testing.T) error {
	t.Helper()
	old := n.Addr
	n.Addr = netip.MustParseAddr(lanPrefix + fmt.Sprint(200+int(old.As4()[3])%50))
	return n.Holder.Run("sh", "-ec", strings.NewReplacer("OLD", old.String(), "NEW", n.Addr.String(), "ROUTER", lanHost).Replace(
		"ip address del OLD/24 dev eth0; ip address add NEW/24 dev eth0; ip route replace default via ROUTER"))
}

package main

import (
	"fmt"

	"brink/e2e/machine"
)

// handMade is two nodes with a pod each whose network was set up by hand: what a
// pod network can be at best on this kernel. There is nothing but links,
// addresses and routes, no rule, no connection tracking and no process; the pods
// stand behind a bridge as those of the other side do.
type handMade struct {
	nodes, pods []*machine.Holder
	ends        [2]pod
}

// handNode makes a node's bridge and its pod. N is its number, PEER the other's
// address on the switch.
const handNode = machine.PlainBridges + `
echo 1 > /proc/sys/net/ipv4/ip_forward
ip address add $IP/24 dev eth0
ip link set eth0 up
ip link add pods0 mtu $MTU type bridge
ip address add 10.44.$N.1/24 dev pods0
ip link set pods0 up
ip link add pod0 mtu $MTU type veth peer name eth0 netns $POD mtu $MTU
ip link set pod0 master pods0 up
`

const handPod = `
ip address add $IP/24 dev eth0
ip link set eth0 up
ip route add default via 10.44.$N.1
`

// handRoute is (a): a route to the other's pods.
const handRoute = `
ip route add 10.44.$OTHER.0/24 via $PEER
`

// handTunnel is (b): a VXLAN device with a route, a neighbour and an FDB entry.
const handTunnel = `
ip link add vx0 address 02:00:00:00:00:0$N mtu $MTU type vxlan id 7 local $IP dev eth0 dstport 8472 nolearning
ip address add 10.44.$N.0/32 dev vx0
ip link set vx0 up
ip route add 10.44.$OTHER.0/24 via 10.44.$OTHER.0 dev vx0 onlink
ip neigh add 10.44.$OTHER.0 lladdr 02:00:00:00:00:0$OTHER dev vx0 nud permanent
bridge fdb append 02:00:00:00:00:0$OTHER dev vx0 dst $PEER
`

// The MTU of Ethernet, and what VXLAN over IPv4 leaves of it.
const (
	plainMTU  = 1500
	tunnelMTU = 1450
)

// makeByHand makes both nodes on a switch. Routing is handRoute or handTunnel.
func makeByHand(l *machine.Switch, routing string, mtu int) (_ *handMade, err error) {
	h := &handMade{}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	var ips []string
	for range 2 {
		for _, list := range []*[]*machine.Holder{&h.nodes, &h.pods} {
			n, err := machine.HoldNetwork("")
			if err != nil {
				return nil, err
			}
			*list = append(*list, n)
		}
		ip, err := l.Plug(h.nodes[len(ips)], segment)
		if err != nil {
			return nil, err
		}
		ips = append(ips, ip.String())
	}
	for i, node := range h.nodes {
		h.ends[i] = pod{h.pods[i].PID(), fmt.Sprintf("10.44.%d.2", i+1)}
		env := []string{fmt.Sprintf("N=%d", i+1), fmt.Sprintf("OTHER=%d", 2-i), "IP=" + ips[i], "PEER=" + ips[1-i],
			fmt.Sprintf("MTU=%d", mtu), fmt.Sprintf("POD=%d", h.pods[i].PID())}
		if err := node.Script(handNode+routing, env...); err != nil {
			return nil, err
		}
		if err := h.pods[i].Script(handPod, env[0], "IP="+h.ends[i].ip); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *handMade) close() {
	for _, n := range append(h.pods, h.nodes...) {
		n.Close()
	}
}

package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPeersRepair damages the ways to peers while brink does not run, as leftovers
// of a crash may look, and again behind its back while its next look is a day
// away.
func TestPeersRepair(t *testing.T) {
	t.Parallel()
	const dev = DefaultVXLANDevice
	m := vtepMAC(prefixes("10.42.2.0/24"))
	mac2, hop2 := m.String(), vtepHop(prefixes("fd42::/64")[0], m).String()
	damages := map[string]map[Backend]string{
		"route deleted":         {VXLAN: "ip route del 10.42.2.0/24", HostGW: "ip route del 10.42.2.0/24"},
		"IPv6 route deleted":    {VXLAN: "ip -6 route del fd42:0:0:2::/64", HostGW: "ip -6 route del fd42:0:0:2::/64"},
		"routes flushed":        {VXLAN: "ip route flush proto 98; ip -6 route flush proto 98", HostGW: "ip route flush proto 98; ip -6 route flush proto 98"},
		"route changed":         {VXLAN: "ip route replace 10.42.2.0/24 via 192.0.0.2 proto 98", HostGW: "ip route replace 10.42.2.0/24 via 192.0.0.77 proto 98"},
		"stray route added":     {VXLAN: "ip route add 10.42.99.0/24 via 192.0.0.2 proto 98", HostGW: "ip -6 route add fd42:0:0:99::/64 via 2001:db8::2 proto 98"},
		"second route added":    {VXLAN: "ip route add 10.42.2.0/24 metric 7 via 192.0.0.2 proto 98", HostGW: "ip route add 10.42.2.0/24 metric 7 via 192.0.0.2 proto 98"},
		"several next hops":     {VXLAN: "ip route add 10.42.9.0/24 proto 98 nexthop via 192.0.0.2 nexthop via 192.0.0.7", HostGW: "ip -6 route append fd42:0:0:2::/64 via 2001:db8::7 metric 1024 proto 98"},
		"underlay link flapped": {HostGW: "ip link set eth0 down; sleep 0.3; ip link set eth0 up; ip addr replace 2001:db8::1/64 dev eth0 nodad"},
		"neighbour deleted":     {VXLAN: "ip neigh del 10.42.2.0 dev " + dev},
		"neighbours flushed":    {VXLAN: "ip neigh flush nud permanent dev " + dev},
		"neighbour changed":     {VXLAN: "ip neigh replace " + hop2 + " lladdr 02:00:00:00:00:99 dev " + dev},
		"neighbour reachable":   {VXLAN: "ip neigh replace 10.42.2.0 lladdr " + mac2 + " nud reachable dev " + dev},
		"neighbour added":       {VXLAN: "ip neigh add 10.42.99.0 lladdr 02:00:00:00:00:99 nud permanent dev " + dev},
		"FDB entry deleted":     {VXLAN: "bridge fdb del " + mac2 + " dev " + dev + " self"},
		"FDB entry changed":     {VXLAN: "bridge fdb replace " + mac2 + " dst 192.0.0.99 dev " + dev + " self permanent"},
		"FDB entry added":       {VXLAN: "bridge fdb append 00:00:00:00:00:00 dst 192.0.0.99 dev " + dev + " self permanent"},
		"device deleted":        {VXLAN: "ip link del " + dev},
		"device set down":       {VXLAN: "ip link set " + dev + " down"},
		"device renamed":        {VXLAN: "ip link set " + dev + " down; ip link set " + dev + " name other; ip link del other"},
		"device replaced":       {VXLAN: "ip link del " + dev + "; ip link add " + dev + " type vxlan id 7 dstport 4789"},
		"learning on":           {VXLAN: "ip link set " + dev + " type vxlan learning"},
		"MTU changed":           {VXLAN: "ip link set " + dev + " mtu 1300"},
		"MAC changed":           {VXLAN: "ip link set " + dev + " address 02:00:00:00:00:99"},
		"addresses flushed":     {VXLAN: "ip addr flush dev " + dev},
		"address added":         {VXLAN: "ip addr add 10.42.77.1/24 dev " + dev},
	}
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := allStacks["dual stack"]
			nodes := cluster(t, s, backend, backend)
			meet(t, s, nodes...)
			node, want := nodes[0], waysOf(t, nodes[0].ns)
			repaired := func() {
				t.Helper()
				got := ""
				defer func() {
					if t.Failed() {
						t.Logf("got\n%s\nwant\n%s", got, want)
					}
				}()
				eventually(t, "repaired", func() bool { got = waysOf(t, node.ns); return got == want })
			}
			for name, commands := range damages {
				if commands[backend] == "" {
					continue
				}
				t.Run(name, func(t *testing.T) {
					node.stop()
					sh(t, node.ns, commands[backend])
					if waysOf(t, node.ns) == want {
						t.Error("this is no damage")
					}
					node.run(t)
					introduce(nodes...)
					repaired()
					sh(t, node.ns, commands[backend])
					repaired()
				})
				t.Cleanup(node.stop)
			}
			meet(t, s, nodes...)
		})
	}
}

// TestRestartKeepsWays: pods talk on while brink does not run, and while it does
// not know its peers again yet.
func TestRestartKeepsWays(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := allStacks["dual stack"]
			nodes := cluster(t, s, backend, backend)
			meet(t, s, nodes...)
			want := sh(t, nodes[0].ns, "ip route; ip -6 route; ip neigh show nud permanent; ip link show type vxlan")
			nodes[0].stop()
			nodes[0].run(t)
			if got := sh(t, nodes[0].ns, "ip route; ip -6 route; ip neigh show nud permanent; ip link show type vxlan"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			introduce(nodes...)
			meet(t, s, nodes...)
			if got := sh(t, nodes[0].ns, "ip route; ip -6 route; ip neigh show nud permanent; ip link show type vxlan"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			nodes[0].network.SetPeers(nil)
			eventually(t, "peers removed", func() bool { return waysOf(t, nodes[0].ns) == "" })
		})
	}
}

// longestCall is that of one whose first two packets are lost: the kernel sends them
// again after one and after three seconds, and once more after seven.
const longestCall = 6 * time.Second

// callers call each pod from each other one all the time, and note what took longer.
type callers struct {
	stop   func()
	done   <-chan struct{}
	all    sync.WaitGroup
	mu     sync.Mutex
	calls  int
	losses []string
}

func callAll(t *testing.T, s stacks, nodes ...*testNode) *callers {
	ctx, cancel := context.WithCancel(context.Background())
	c := &callers{stop: cancel, done: ctx.Done()}
	t.Cleanup(func() { c.end() })
	for _, from := range nodes {
		for _, to := range nodes {
			for _, addr := range s.podAddrs(to.number) {
				if from != to {
					c.all.Go(func() { c.call(from, addr) })
				}
			}
		}
	}
	return c
}

func (c *callers) call(from *testNode, addr string) {
	for {
		select {
		case <-c.done:
			return
		case <-time.After(50 * time.Millisecond):
		}
		begun := time.Now()
		_, err := call(from.pod, addr, 10*time.Second)
		took := time.Since(begun)
		c.mu.Lock()
		if c.calls++; err != nil || took > longestCall {
			c.losses = append(c.losses, fmt.Sprintf("%s: from node %d to %s: %v after %v", begun.Format("15:04:05.000"), from.number, addr, err, took))
		}
		c.mu.Unlock()
	}
}

// end returns how many calls there were, and those that took too long.
func (c *callers) end() (int, []string) {
	c.stop()
	c.all.Wait()
	return c.calls, c.losses
}

// TestRollingSwitch changes the backend by restarting one node after another,
// there and back. Peers hear of it before the node itself hears of them, as it
// announces itself first, and one after the other. Packets that are under way are
// lost then: where rp_filter is strict, those that come by the new way to who
// answers by the old one, and those to a device that is not there yet. No three
// that are seconds apart are.
func TestRollingSwitch(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	nodes := cluster(t, s, VXLAN, VXLAN, VXLAN)
	meet(t, s, nodes...)
	calling := callAll(t, s, nodes...)
	for _, backend := range []Backend{HostGW, VXLAN} {
		for _, n := range nodes {
			n.stop()
			n.cfg.Backend, n.linger = backend, 5*time.Second
			n.run(t)
			for _, other := range nodes {
				if other != n {
					introduceTo(other, nodes...)
					time.Sleep(200 * time.Millisecond)
				}
			}
			introduceTo(n, nodes...)
			meet(t, s, nodes...)
			for _, n := range nodes {
				eventually(t, "no warnings", func() bool { return !n.network.peers.unsure.Load() && n.network.Warnings() == nil })
			}
		}
		for _, n := range nodes {
			eventually(t, "the other backend's leftovers removed", func() bool {
				return strings.Contains(waysOf(t, n.ns), "link brink-vxlan") == (backend == VXLAN)
			})
		}
	}
	if calls, losses := calling.end(); calls < 100 || len(losses) > 0 {
		t.Errorf("of %d calls\n%s", calls, strings.Join(losses, "\n"))
	}
}

// TestNoneRemovesLeftovers: with this backend others do it, and ours is in the way.
func TestNoneRemovesLeftovers(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, backend, backend)
			meet(t, s, nodes...)
			n := nodes[0]
			n.stop()
			sh(t, n.ns, "ip route add 10.99.0.0/16 via 192.0.0.2 proto static")
			n.cfg.Backend, n.cfg.Underlay, n.linger = None, nil, time.Hour
			n.run(t)
			if got := waysOf(t, n.ns); got != "" {
				t.Errorf("left:\n%s", got)
			}
			if got := sh(t, n.ns, "ip route show 10.99.0.0/16"); !strings.Contains(got, "via 192.0.0.2") {
				t.Errorf("somebody's route is %q", got)
			}
		})
	}
}

func TestRemovePeers(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	nodes := cluster(t, s, VXLAN, VXLAN, HostGW)
	meet(t, s, nodes...)
	nodes[0].stop()
	sh(t, nodes[0].ns, "ip route add 10.99.0.0/16 via 192.0.0.2 proto static")
	inside(t, nodes[0].ns, func() error {
		return errors.Join(Remove(nodes[0].cfg), Remove(nodes[0].cfg))
	})
	if got := waysOf(t, nodes[0].ns); got != "" {
		t.Errorf("left:\n%s", got)
	}
	if got := sh(t, nodes[0].ns, "ip -o link"); strings.Contains(got, "brink") {
		t.Errorf("links left:\n%s", got)
	}
	if got := sh(t, nodes[0].ns, "ip route show 10.99.0.0/16"); got == "" {
		t.Error("somebody's route is gone")
	}
}

// TestUnderlayChange gives a node another address. Its peers are told, and none
// restarts.
func TestUnderlayChange(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := allStacks["dual stack"]
			nodes := cluster(t, s, backend, backend, backend)
			meet(t, s, nodes...)
			moved := nodes[1]
			sh(t, moved.ns, "ip addr del 192.0.0.2/24 dev eth0; ip addr add 192.0.0.22/24 dev eth0; ip addr del 2001:db8::2/64 dev eth0; ip addr add 2001:db8::22/64 dev eth0 nodad")
			eventually(t, "the loss is told", func() bool {
				err := moved.network.Warnings()
				return err != nil && strings.Contains(err.Error(), "no link of this node has its address 192.0.0.2: peers stay as they are")
			})
			moved.cfg.Underlay = addrs("192.0.0.22", "2001:db8::22")
			moved.network.SetUnderlay(moved.cfg.Underlay)
			introduce(nodes...)
			meet(t, s, nodes...)
			for _, n := range nodes {
				eventually(t, "no warnings", func() bool { return n.network.Warnings() == nil })
				if got := waysOf(t, n.ns); strings.Contains(got, "192.0.0.2\n") || strings.Contains(got, "192.0.0.2 ") {
					t.Errorf("the old address stays:\n%s", got)
				}
			}
		})
	}
}

// TestAddressBack: a link that loses its addresses for a while, as with a DHCP
// server that is slow, gets all back when they return.
func TestAddressBack(t *testing.T) {
	t.Parallel()
	s := allStacks["IPv4"]
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, backend, backend)
			meet(t, s, nodes...)
			want := waysOf(t, nodes[0].ns)
			sh(t, nodes[0].ns, "ip addr flush dev eth0; sleep 0.3")
			sh(t, nodes[0].ns, "ip addr add 192.0.0.1/24 dev eth0")
			eventually(t, "restored", func() bool { return waysOf(t, nodes[0].ns) == want && nodes[0].network.Warnings() == nil })
			meet(t, s, nodes...)
		})
	}
}

// TestRouter has nodes on two segments.
func TestRouter(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := allStacks["dual stack"]
			router := newSegment(t)
			addBridge(t, "segment1")
			sh(t, router, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
			var nodes []*testNode
			for n := 1; n <= 3; n++ {
				segment := n / 2 // node 1 is alone
				if gateways := s.of(s.underlay, fmt.Sprintf("192.0.%d.254", segment), fmt.Sprintf("2001:db8:%d::254", segment)); n != 2 {
					bridge := up(t, fmt.Sprintf("segment%d", segment))
					for _, a := range s.onSegment(segment, 254) {
						must(t, addAddr(bridge, a))
					}
					nodes = append(nodes, newNode(t, s, segment, n, backend, gateways...))
				} else {
					nodes = append(nodes, newNode(t, s, segment, n, backend, gateways...))
				}
				nodes[n-1].run(t)
			}
			introduce(nodes...)
			meet(t, s, nodes[1:]...)
			if backend == VXLAN {
				meet(t, s, nodes...)
				return
			}
			want := `node n2: its address 192.0.1.2 is not on a segment of this node (the way leads through 192.0.0.254), so host-gw cannot reach its pods: use the backend vxlan
node n2: its address 2001:db8:1::2 is not on a segment of this node (the way leads through 2001:db8::254), so host-gw cannot reach its pods: use the backend vxlan
node n3: its address 192.0.1.3 is not on a segment of this node (the way leads through 192.0.0.254), so host-gw cannot reach its pods: use the backend vxlan
node n3: its address 2001:db8:1::3 is not on a segment of this node (the way leads through 2001:db8::254), so host-gw cannot reach its pods: use the backend vxlan`
			eventually(t, "refused", func() bool { return nodes[0].network.Warnings() != nil })
			if got := nodes[0].network.Warnings().Error(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got := waysOf(t, nodes[0].ns); got != "" {
				t.Errorf("routes that lead nowhere:\n%s", got)
			}
		})
	}
}

// TestForeignRoute: somebody else has a route to a peer's pods.
func TestForeignRoute(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	nodes := cluster(t, s, VXLAN)
	node := nodes[0]
	sh(t, node.ns, "ip route add 10.42.2.0/24 via 192.0.0.9 proto static; ip -6 route add fd42:0:0:2::/64 via 2001:db8::9 metric 5")
	node.network.SetPeers([]Peer{{Name: "n2", CIDRs: s.nodeCIDRs(2), Underlay: addrs("192.0.0.2", "2001:db8::2")}})
	want := `node n2: there is a route to its pods' range 10.42.2.0/24 by somebody else (protocol static), which stays: remove it
node n2: there is a route to its pods' range fd42:0:0:2::/64 by somebody else (protocol boot), which stays: remove it`
	eventually(t, "told", func() bool { err := node.network.Warnings(); return err != nil && err.Error() == want })
	if got := sh(t, node.ns, "ip route show 10.42.2.0/24"); strings.TrimSpace(got) != "10.42.2.0/24 via 192.0.0.9 dev eth0 proto static" {
		t.Errorf("the route is %s", got)
	}
	sh(t, node.ns, "ip route del 10.42.2.0/24 via 192.0.0.9; ip -6 route del fd42:0:0:2::/64 metric 5")
	eventually(t, "ours in place", func() bool {
		got := waysOf(t, node.ns)
		return node.network.Warnings() == nil && strings.Contains(got, "route 10.42.2.0/24 via 10.42.2.0") && strings.Contains(got, "route fd42:0:0:2::/64 via fe80::")
	})
	// One that comes later cannot take the place of ours, and ours never moves aside.
	sh(t, node.ns, "! ip route add 10.42.2.0/24 via 192.0.0.9 proto static 2>&1")
}

func conflistMTU(t *testing.T, cfg Config) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cfg.CNIConfDir, conflistName))
	must(t, err)
	for line := range strings.Lines(string(data)) {
		if _, mtu, ok := strings.Cut(line, `"mtu": `); ok {
			return strings.TrimSuffix(strings.TrimSpace(mtu), ",")
		}
	}
	return "none"
}

// TestMTU: of pods, and of the device, by the underlay's.
func TestMTU(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                   string
		stacks                 string
		backend                Backend
		link, config           int
		pods, device, complain string
	}{
		{"vxlan", "IPv4", VXLAN, 1500, 0, "1450", "1450", ""},
		{"vxlan over IPv6", "IPv6", VXLAN, 1500, 0, "1430", "1430", ""},
		{"jumbo frames", "dual stack", VXLAN, 9000, 0, "8950", "8950", ""},
		{"host-gw", "dual stack", HostGW, 1500, 0, "1500", "", ""},
		{"none", "IPv4", None, 1500, 0, "none", "", ""},
		{"told", "IPv4", VXLAN, 1500, 1400, "1400", "1400", ""},
		{"told too much", "IPv4", VXLAN, 1500, 1500, "1500", "1450",
			"packets of pods may have 1500 bytes, but only 1450 fit through link eth0 to other nodes (MTU 1500), so they are sent in pieces or lost: raise the link's MTU to 1550"},
		{"little", "IPv4", VXLAN, 1300, 0, "1250", "1250", ""},
		{"too little for IPv6", "dual stack pods on IPv4", VXLAN, 1300, 0, "1280", "1280",
			"packets of pods may have 1280 bytes, but only 1250 fit through link eth0 to other nodes (MTU 1300), so they are sent in pieces or lost: raise the link's MTU to 1330"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := allStacks[tt.stacks]
			newSegment(t)
			var nodes []*testNode
			for n := 1; n <= 2; n++ {
				node := newNode(t, s, 0, n, tt.backend)
				node.cfg.MTU = tt.config
				sh(t, node.ns, fmt.Sprintf("ip link set eth0 mtu %d", tt.link))
				node.run(t)
				nodes = append(nodes, node)
			}
			if got := conflistMTU(t, nodes[0].cfg); got != tt.pods {
				t.Errorf("pods have %s, want %s", got, tt.pods)
			}
			introduce(nodes...)
			if tt.backend != None && tt.link <= 1500 {
				meet(t, s, nodes...)
			}
			if tt.device != "" {
				eventually(t, "device", func() bool { return strings.Contains(waysOf(t, nodes[0].ns), " mtu "+tt.device+" ") })
			}
			if got := nodes[0].network.Warnings(); fmt.Sprint(got) != tt.complain && (got != nil || tt.complain != "") {
				t.Errorf("warns %v, want %s", got, tt.complain)
			}
		})
	}
}

// TestMTUFollows the link.
func TestMTUFollows(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	nodes := cluster(t, s, VXLAN, VXLAN)
	meet(t, s, nodes...)
	for _, mtu := range []int{1400, 1500, 1320} {
		sh(t, nodes[0].ns, fmt.Sprintf("ip link set eth0 mtu %d", mtu))
		eventually(t, "MTU follows", func() bool {
			want := max(mtu-50, 1280)
			return conflistMTU(t, nodes[0].cfg) == fmt.Sprint(want) && strings.Contains(waysOf(t, nodes[0].ns), fmt.Sprintf(" mtu %d ", want))
		})
		meet(t, s, nodes...)
	}
}

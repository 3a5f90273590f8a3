package network

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"brink/internal/testgoroutines"
	"brink/network/testnet"
)

// TestStopLeavesNoGoroutine, on a node with peers, at whose sockets goroutines wait for the
// kernel and which probes its tunnel.
func TestStopLeavesNoGoroutine(t *testing.T) {
	t.Parallel()
	nodes := testnet.Segment(t, 2, func(number int) *testNode { return newNode(t, testnet.DualStack, 0, number, VXLAN) })
	testgoroutines.WantNone(t, func() {
		for _, n := range nodes {
			n.run(t)
		}
		introduce(nodes...)
		testnet.Meet(t, nodes...)
		for _, n := range nodes {
			n.stop()
		}
	})
}

// TestRestartKeepsRoutes: pods talk on while brink does not run, and while it does
// not know its peers again yet.
func TestRestartKeepsRoutes(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := testnet.DualStack
			nodes := cluster(t, s, backend, backend)
			testnet.Meet(t, nodes...)
			want := nodes[0].Sh(t, "ip route; ip -6 route; ip neigh show nud permanent; ip link show type vxlan")
			nodes[0].stop()
			nodes[0].run(t)
			if got := nodes[0].Sh(t, "ip route; ip -6 route; ip neigh show nud permanent; ip link show type vxlan"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			introduce(nodes...)
			testnet.Meet(t, nodes...)
			if got := nodes[0].Sh(t, "ip route; ip -6 route; ip neigh show nud permanent; ip link show type vxlan"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			nodes[0].network.SetPeers(nil)
			testnet.Eventually(t, "peers removed", func() bool { return routesOf(t, nodes[0].NS) == "" })
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

func callAll(t *testing.T, nodes ...*testNode) *callers {
	ctx, cancel := context.WithCancel(context.Background())
	c := &callers{stop: cancel, done: ctx.Done()}
	t.Cleanup(func() { c.end() })
	for _, from := range nodes {
		for _, to := range nodes {
			for _, addr := range to.PodAddrs() {
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
		_, err := testnet.Call(from.Pod, addr, 10*time.Second)
		took := time.Since(begun)
		c.mu.Lock()
		if c.calls++; err != nil || took > longestCall {
			c.losses = append(c.losses, fmt.Sprintf("%s: from node %d to %s: %v after %v", begun.Format("15:04:05.000"), from.Number, addr, err, took))
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
// lost then: where rp_filter is strict, those that come by the new way to one that
// answers by the old one, and those to a device that is not there yet. No three
// that are seconds apart are.
func TestRollingSwitch(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN, VXLAN, VXLAN)
	testnet.Meet(t, nodes...)
	calling := callAll(t, nodes...)
	for _, backend := range []Backend{HostGW, VXLAN} {
		for _, n := range nodes {
			n.stop()
			n.cfg.Backend, n.cfg.linger = backend, 5*time.Second
			n.run(t)
			for _, other := range nodes {
				if other != n {
					introduceTo(other, nodes...)
					time.Sleep(200 * time.Millisecond)
				}
			}
			introduceTo(n, nodes...)
			testnet.Meet(t, nodes...)
			for _, n := range nodes {
				testnet.Eventually(t, "no warnings", func() bool { return n.network.Warnings() == nil })
			}
		}
		for _, n := range nodes {
			testnet.Eventually(t, "the other backend's leftovers removed", func() bool {
				return strings.Contains(routesOf(t, n.NS), "brink-vxlan:") == (backend == VXLAN)
			})
		}
	}
	if calls, losses := calling.end(); calls < 100 || len(losses) > 0 {
		t.Errorf("of %d calls\n%s", calls, strings.Join(losses, "\n"))
	}
}

package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// repairs are what somebody may do to a node's pod network behind brink's back.
var repairs = []struct{ name, command string }{
	{"the peer's route", "ip route del $(ip route show dev brink-vxlan | head -n 1 | cut -d' ' -f1)"},
	{"the peer's IPv6 route", "ip -6 route del $(ip -6 route show dev brink-vxlan proto 98 | head -n 1 | cut -d' ' -f1) proto 98"},
	{"the peer's neighbour", "ip neigh flush dev brink-vxlan nud permanent"},
	{"the FDB entry", "bridge fdb show dev brink-vxlan | sed -n 's/^\\([^ ]*\\).* dst \\([^ ]*\\) .*/bridge fdb del \\1 dev brink-vxlan dst \\2/p' | sh -e"},
	{"the device", "ip link del brink-vxlan"},
	{"the device's address", "ip address flush dev brink-vxlan"},
	{"the device's state", "ip link set brink-vxlan down"},
	{"the rules", "nft delete table inet brink"},
	{"forwarding", "sysctl -qw net.ipv4.ip_forward=0"},
	{"the bridges' way to the rules", "sysctl -qw net.bridge.bridge-nf-call-iptables=0"},
}

// routesScript prints all that the pod network is in a machine's kernel, in one
// form: without what changes with each making.
const routesScript = `ip route show proto 98; ip -6 route show proto 98
ip neigh show dev brink-vxlan nud permanent 2>&1 | sort; bridge fdb show dev brink-vxlan 2>&1 | sort
ip -o address show dev brink-vxlan 2>&1 | sed 's/^[0-9]*: //' | grep -v fe80
ip -o link show dev brink-vxlan 2>&1 | sed 's/^[0-9]*: //; s/ state [A-Z]*//'
nft -s list table inet brink 2>&1; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.bridge.bridge-nf-call-iptables`

func (n *node) routes() (string, error) {
	r, err := n.Run("", "sh", "-c", routesScript)
	return r.Stdout, err
}

// damageRoutes takes something from the kernel by a command and sees it missing. It
// tries again, because it may be repaired before anybody can look.
func (n *node) damageRoutes(command, before string) error {
	for range 10 {
		damaged, err := n.Run("", "sh", "-ec", command+"\nset +e\n"+routesScript)
		if err != nil || damaged.Code != 0 {
			return fmt.Errorf("%v %v", err, damaged)
		}
		if damaged.Stdout != before {
			return nil
		}
	}
	return errors.New("nothing is ever damaged")
}

// TestPodNetworkRepairsItself also goes through a change of a node's address.
func TestPodNetworkRepairsItself(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2, dualStack...)
	d := c.deploy(t)
	if err := d.allReachAll(); err != nil {
		t.Fatal(err)
	}
	d.masquerades()
	before, err := c.agents[0].routes()
	if err != nil {
		t.Fatal(err)
	}
	d.mustContain(before, "udp dport 8472", "notrack", "masquerade")
	for _, r := range repairs {
		if err := c.agents[0].damageRoutes(r.command, before); err != nil {
			t.Fatalf("damaging %s: %v", r.name, err)
		}
		begun := time.Now()
		d.eventually("the kernel's state after somebody took "+r.name, func() error {
			now, err := c.agents[0].routes()
			if err == nil && now != before {
				err = fmt.Errorf("it is\n%s\nand was\n%s", now, before)
			}
			return err
		})
		d.eventually("the pod network after somebody took "+r.name, d.allReachAll)
		t.Logf("%s is back after %v", r.name, time.Since(begun).Round(time.Second))
	}
	if err := c.agents[0].moveTo(t); err != nil {
		t.Fatal(err)
	}
	d.eventually("the node's new address in its Node", func() error {
		if got := c.agents[0].object(t).Status.Addresses[0].Address; got != c.agents[0].Addr.String() {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	d.eventually("the pod network after a node's address has changed", func() error {
		var errs []error
		for _, pod := range d.pods { // those in the hosts' network still have the old address
			errs = append(errs, d.reach(pod, ipsOf(d.pods)))
		}
		return errors.Join(errs...)
	})
}

func ipsOf(pods []corev1.Pod) []string {
	var out []string
	for _, pod := range pods {
		out = append(out, pod.Status.PodIP)
	}
	return out
}

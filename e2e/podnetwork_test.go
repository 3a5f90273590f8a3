package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serversOnHosts is a DaemonSet like serversOnAll on the nodes' own addresses.
const serversOnHosts = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: hosts}
spec:
  selector: {matchLabels: {app: hosts}}
  template:
    metadata: {labels: {app: hosts}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers: [{name: server, image: e2e.local/server:1}]
---
apiVersion: v1
kind: Service
metadata: {name: all}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: pods}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: udp, port: 81, protocol: UDP, targetPort: 8081}
`

// deployed are a pod and a pod on the host network on each node of a cluster.
type deployed struct {
	*namespace
	*cluster
	pods, hosts []corev1.Pod
}

func (c *cluster) deploy(t *testing.T) *deployed {
	t.Helper()
	ns := newNamespace(t, c.server)
	ns.apply(serversOnAll)
	ns.apply(serversOnHosts)
	size := len(c.nodes())
	return &deployed{ns, c, ns.readyPods("app=pods", size), ns.readyPods("app=hosts", size)}
}

// reach has a pod ask all addresses.
func (d *deployed) reach(from corev1.Pod, addresses []string) error {
	_, err := d.tryKubectl(append([]string{"exec", from.Name, "--", "/server", "reach"}, addresses...)...)
	if err != nil {
		err = fmt.Errorf("from %s on %s: %w", from.Name, d.named(from.Spec.NodeName).Addr, err)
	}
	return err
}

// allReachAll is the whole promise of a pod network: every pod reaches every pod
// and every node in every way, with its own address; nodes reach pods.
func (d *deployed) allReachAll() error {
	var toPods []string
	for _, pod := range d.pods {
		for _, ip := range pod.Status.PodIPs {
			toPods = append(toPods, ip.IP)
		}
	}
	var all sync.WaitGroup
	errs := make([]error, 2*len(d.pods))
	for i, pod := range d.pods {
		all.Go(func() { errs[2*i] = d.reach(pod, append(d.hostsFor(pod), toPods...)) })
		all.Go(func() { errs[2*i+1] = d.reach(d.hosts[i], toPods) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// hostsFor are the addresses of the pods in the hosts' network, as reach takes them
// of a pod.
func (d *deployed) hostsFor(pod corev1.Pod) []string {
	var out []string
	for _, host := range d.hosts {
		mark := "~"
		if host.Spec.NodeName == pod.Spec.NodeName {
			mark = "!"
		}
		out = append(out, mark+host.Status.HostIP)
	}
	return out
}

// servicesAnswer asks the ClusterIPs and the NodePorts of every node from every node,
// by TCP and UDP, until all pods have answered; and the ClusterIPs from every pod.
func (d *deployed) servicesAnswer() {
	d.Helper()
	svc, err := d.client.CoreV1().Services(d.name).Get(d.Context(), "all", metav1.GetOptions{})
	if err != nil {
		d.Fatal(err)
	}
	for _, n := range d.nodes() {
		for _, ip := range svc.Spec.ClusterIPs {
			d.answersBy(n, ip, "80", "81")
			for _, other := range d.nodes() {
				d.answersBy(n, other.AddrLike(ip), d.nodePort("all", "http"), d.nodePort("all", "udp"))
			}
		}
	}
	for _, pod := range d.pods {
		for _, ip := range svc.Spec.ClusterIPs {
			d.mustContain(d.exec(pod.Name, "/server", "get", "http://"+net.JoinHostPort(ip, "80")+"/hostname"), "pods-")
		}
	}
}

// answersBy asks from a node until all pods have answered by both protocols.
func (d *deployed) answersBy(from *node, ip, tcp, udp string) {
	d.Helper()
	url := "http://" + net.JoinHostPort(ip, tcp) + "/hostname"
	d.reachesAll(d.pods, url+" on "+from.Addr.String(), func() (string, error) { return from.Netns().Get(url) })
	to := net.JoinHostPort(ip, udp)
	d.reachesAll(d.pods, "UDP to "+to+" on "+from.Addr.String(), func() (string, error) { return from.Netns().AskUDP(to) })
}

// TestPodNetworkVXLAN has IPv4 and IPv6 at the same time.
func TestPodNetworkVXLAN(t *testing.T) {
	t.Parallel()
	d := theCluster(t).deploy(t)
	for _, pod := range d.pods {
		d.mustEqual("the number of addresses of "+pod.Name, len(pod.Status.PodIPs), 2)
	}
	if err := d.allReachAll(); err != nil {
		t.Error(err)
	}
	d.servicesAnswer()
	d.masquerades()
}

// TestPodNetworkIPv4 begins with direct routes; then all nodes are started again with
// VXLAN.
func TestPodNetworkIPv4(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "flannel-backend: host-gw")
	d := c.deploy(t)
	for _, backend := range []string{"host-gw", "vxlan"} {
		c.server.Config[len(c.server.Config)-1] = "flannel-backend: " + backend
		if err := c.server.WriteConfig(); err != nil {
			t.Fatal(err)
		}
		if backend != "host-gw" {
			again := func(n *node) error { return errors.Join(n.Stop(), n.Start()) }
			if err := errors.Join(again(c.server), together(c.agents, again)); err != nil {
				t.Fatal(err)
			}
		}
		d.eventually("the pod network with "+backend, d.allReachAll)
		d.servicesAnswer()
		d.masquerades()
	}
}

// TestPodNetworkIPv6 has no IPv4 in the cluster, and an agent that joins by IPv6.
func TestPodNetworkIPv6(t *testing.T) {
	t.Parallel()
	c := &cluster{server: startNode(t, "cluster-cidr: fd42::/56", "service-cidr: fd43::/112")}
	n := c.prepareAgent(t)
	for i, line := range n.Config {
		n.Config[i] = strings.Replace(line, "https://"+c.server.Addr.String(), "https://["+c.server.Addr6().String()+"]", 1)
	}
	if err := errors.Join(n.WriteConfig(), n.Start()); err != nil {
		t.Fatal(err)
	}
	c.agents = []*node{n}
	d := c.deploy(t)
	for _, pod := range append(d.pods, d.hosts...) {
		if ips := pod.Status.PodIPs; len(ips) != 1 || !strings.Contains(ips[0].IP, ":") {
			t.Errorf("%s has the addresses %v", pod.Name, ips)
		}
	}
	if err := d.allReachAll(); err != nil {
		t.Error(err)
	}
	d.servicesAnswer()
	d.masquerades()
	d.mustContain(d.exec(d.pods[0].Name, "cat", "/etc/hosts"), "fd42:")
}

// masquerades: outside of the cluster nobody knows the way back to a pod.
func (d *deployed) masquerades() {
	d.Helper()
	seen, seen6 := serveClientIP(d.T), serveClientIPAt(d.T, near.Gateway6().String())
	for _, pod := range d.pods {
		n := d.named(pod.Spec.NodeName)
		for _, ip := range pod.Status.PodIPs {
			outside := seen
			if strings.Contains(ip.IP, ":") {
				outside = seen6
			}
			got := d.exec(pod.Name, "/server", "get", "http://"+outside+"/")
			d.mustEqual("the address that the outside sees of "+pod.Name+", "+ip.IP, got, n.AddrLike(ip.IP))
		}
	}
}

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

// waysScript prints all that the pod network is in a machine's kernel, in one
// form: without what changes with each making.
const waysScript = `ip route show proto 98; ip -6 route show proto 98
ip neigh show dev brink-vxlan nud permanent 2>&1 | sort; bridge fdb show dev brink-vxlan 2>&1 | sort
ip -o address show dev brink-vxlan 2>&1 | sed 's/^[0-9]*: //' | grep -v fe80
ip -o link show dev brink-vxlan 2>&1 | sed 's/^[0-9]*: //; s/ state [A-Z]*//'
nft -s list table inet brink 2>&1; sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.bridge.bridge-nf-call-iptables`

func (n *node) ways() (string, error) {
	r, err := n.Run("", "sh", "-c", waysScript)
	return r.Stdout, err
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
	before, err := c.agents[0].ways()
	if err != nil {
		t.Fatal(err)
	}
	d.mustContain(before, "udp dport 8472", "notrack", "masquerade")
	for _, r := range repairs {
		// It may be repaired before anybody can look.
		isSeen := false
		for range 10 {
			damaged, err := c.agents[0].Run("", "sh", "-ec", r.command+"\nset +e\n"+waysScript)
			if err != nil || damaged.Code != 0 {
				t.Fatalf("damaging %s: %v %v", r.name, err, damaged)
			}
			if isSeen = damaged.Stdout != before; isSeen {
				break
			}
		}
		if !isSeen {
			t.Fatalf("nothing is ever damaged of %s", r.name)
		}
		begun := time.Now()
		d.eventually("the kernel's state after somebody took "+r.name, func() error {
			now, err := c.agents[0].ways()
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

// moveTo gives the machine another address, as a DHCP server does.
func (n *node) moveTo(t *testing.T) error {
	t.Helper()
	old := n.Addr
	n.Addr = netip.MustParseAddr(lanPrefix + fmt.Sprint(200+int(old.As4()[3])%50))
	return n.Holder.Run("sh", "-ec", strings.NewReplacer("OLD", old.String(), "NEW", n.Addr.String(), "ROUTER", lanHost).Replace(
		"ip address del OLD/24 dev eth0; ip address add NEW/24 dev eth0; ip route replace default via ROUTER"))
}

// TestSwitchingTheBackend begins with direct routes and goes over to VXLAN node by
// node; pods reach each other at every step.
func TestSwitchingTheBackend(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, append(slices.Clone(dualStack), "flannel-backend: host-gw")...)
	d := c.deploy(t)
	if err := d.allReachAll(); err != nil {
		t.Fatal(err)
	}
	d.servicesAnswer()
	d.masquerades()
	for _, n := range c.nodes() {
		if links, err := n.Netns().Links(); err != nil || strings.Contains(strings.Join(links, " "), "vxlan") {
			t.Errorf("links of a node with direct routes: %v, %v", links, err)
		}
	}
	// One who asks the pods of all nodes meanwhile sees delays at most: no way is
	// lost for as long as a request waits, which is ten seconds.
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	asking := ask(sw.Netns(), "http://"+c.agents[0].Addr.String()+":"+d.nodePort("all", "http")+"/hostname")
	t.Cleanup(asking.stop)
	for _, step := range [][2]string{{"host-gw", "vxlan"}, {"vxlan", "host-gw"}} {
		for i, line := range c.server.Config {
			c.server.Config[i] = strings.ReplaceAll(line, step[0], step[1])
		}
		if err := c.server.WriteConfig(); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes() {
			if err := errors.Join(n.Stop(), n.Start()); err != nil {
				t.Fatal(err)
			}
			d.eventually(fmt.Sprintf("the pod network with a part of the nodes switched to %s", step[1]), d.allReachAll)
		}
	}
	if asked, failed := asking.end(); asked < 100 || len(failed) > 0 {
		t.Errorf("%d requests, of which failed:\n%s", asked, strings.Join(failed, "\n"))
	}
	for _, n := range c.nodes() {
		d.eventually("the device to go when nobody needs it", func() error {
			links, err := n.Netns().Links()
			if err == nil && strings.Contains(strings.Join(links, " "), "vxlan") {
				err = fmt.Errorf("links are %v", links)
			}
			return err
		})
	}
}

// TestTwoSegments has a router between two nodes. VXLAN does not mind; direct routes
// are not possible, which both nodes say by the other's name.
func TestTwoSegments(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 0)
	m, err := newMachineOn(far)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newAgentOn(m, c.server)
	other.closeAfter(t)
	if err := errors.Join(err, other.Start()); err != nil {
		t.Fatal(err)
	}
	c.agents = []*node{other}
	d := c.deploy(t)
	if err := d.allReachAll(); err != nil {
		t.Error(err)
	}
	d.servicesAnswer()
	c.server.Config = append(c.server.Config, "flannel-backend: host-gw")
	if err := c.server.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes() {
		if err := errors.Join(n.Stop(), n.Start()); err != nil {
			t.Fatal(err)
		}
	}
	for n, peer := range map[*node]*node{c.server: other, other: c.server} {
		d.eventually("a warning about "+peer.ID, func() error {
			r, err := n.Brink(append([]string{"status"}, n.Flags("data-dir")...)...)
			if err != nil || r.Code != 0 {
				return fmt.Errorf("%v %v", err, r)
			}
			for _, part := range []string{"warning: ", peer.ID, peer.Addr.String(), "vxlan"} {
				if err := contains(r.Stdout, part); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

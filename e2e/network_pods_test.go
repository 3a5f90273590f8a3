package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

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
		if err := c.server.Configure("flannel-backend", backend); err != nil {
			t.Fatal(err)
		}
		if backend != "host-gw" {
			if err := errors.Join(c.server.Restart(), together(c.agents, (*node).Restart)); err != nil {
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
	if err := errors.Join(n.Configure("server", "https://["+c.server.Addr6().String()+"]:6443"), n.Start()); err != nil {
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

// masquerades: outside the cluster there is no route back to a pod.
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

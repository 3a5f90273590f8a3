package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"brink/e2e/machine"
)

// What every site calls its router and its machine.
const siteRouter, siteMachine = "192.168.77.1", "192.168.77.10"

// newMachineAtSite is a machine of a network of its own, behind a router that
// translates addresses.
func newMachineAtSite(t *testing.T) (*machine.Machine, error) {
	t.Helper()
	sw, err := sharedLAN()
	if err != nil {
		return nil, err
	}
	router, err := machine.HoldNetwork("echo 1 > /proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return nil, fmt.Errorf("making a site's router: %w", err)
	}
	t.Cleanup(router.Close)
	outside, err := sw.Plug(router, near)
	if err != nil {
		return nil, err
	}
	m, err := newMachine()
	if err != nil {
		return nil, err
	}
	m.Addr = netip.MustParseAddr(siteMachine)
	for _, step := range []struct {
		on   *machine.Holder
		argv []string
	}{
		{router, []string{"ip", "address", "add", outside.String() + "/24", "dev", "eth0"}},
		{router, []string{"ip", "link", "set", "eth0", "up"}},
		{router, []string{"nft", "add table ip site; add chain ip site out { type nat hook postrouting priority 100; }; add rule ip site out oifname eth0 masquerade"}},
		{m.Holder, []string{"ip", "link", "delete", "eth0"}},
		{router, []string{"ip", "link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(m.Holder.PID())}},
		{router, []string{"ip", "address", "add", siteRouter + "/24", "dev", "inside"}},
		{router, []string{"ip", "link", "set", "inside", "up"}},
		{m.Holder, []string{"ip", "address", "add", siteMachine + "/24", "dev", "eth0"}},
		{m.Holder, []string{"ip", "link", "set", "eth0", "up"}},
		{m.Holder, []string{"ip", "route", "add", "default", "via", siteRouter}},
	} {
		if err := step.on.Run(step.argv...); err != nil {
			return nil, errors.Join(err, m.Destroy())
		}
	}
	return m, nil
}

// TestTwoSites: the machines of two sites have the same address, and both are
// nodes that can be looked into.
func TestTwoSites(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	c.agents = []*node{c.prepareAgentAtSite(t), c.prepareAgentAtSite(t)}
	if err := together(c.agents, (*node).Start); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, c.server)
	for i, n := range c.agents {
		if got := n.object(t).Status.Addresses[0]; got != (corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: siteMachine}) {
			t.Errorf("%s is at %v", n.ID, got)
		}
		name := fmt.Sprintf("at-site-%d", i)
		ns.apply(sleeper(name, "  nodeName: "+n.ID+"\n"))
		ns.readyPod(name)
		ns.kubectl("exec", name, "--", "sh", "-c", "echo hello from "+n.ID+" > /proc/1/fd/1")
		ns.eventually("logs", func() error { return contains(ns.logs(name), "hello from "+n.ID) })
	}
	ns.findsPortsByPod(c)
}

// prepareAgentAtSite is prepareAgent on a machine of a site.
func (c *cluster) prepareAgentAtSite(t *testing.T) *node {
	t.Helper()
	m, err := newMachineAtSite(t)
	if err != nil {
		t.Fatal(err)
	}
	n, err := newAgentOn(m, c.server)
	n.closeAfter(t)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// findsPortsByPod: pods of the host's network have the address of both machines, so the
// one with the port has it. Where both have it there is no telling, and a port that no
// pod has is nobody's.
func (ns *namespace) findsPortsByPod(c *cluster) {
	ns.Helper()
	for i, n := range c.agents {
		ns.apply(hostPort(fmt.Sprintf("host-%d", i), n.ID, 9091+i, 9100))
		ns.readyPod(fmt.Sprintf("host-%d", i))
	}
	asks := func(port int) error {
		_, err := ns.tryKubectl("get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/host-0:%d/proxy/", ns.name, port))
		if err == nil {
			err = errors.New("it was answered")
		}
		return err
	}
	for i, n := range c.agents {
		if err := contains(asks(9091+i).Error(), "reaching node "+n.ID+" by its tunnel"); err != nil {
			ns.Errorf("asking %s for the port of %s: %v", siteMachine, n.ID, err)
		}
	}
	for _, part := range []string{c.agents[0].ID, c.agents[1].ID, "all say that they have this address"} {
		if err := contains(asks(9100).Error(), part); err != nil {
			ns.Errorf("asking %s for a port of both: %v", siteMachine, err)
		}
	}
}

// hostPort is a pod in the host's network of a node that says that it has ports.
func hostPort(name, node string, ports ...int) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("{containerPort: %d}", p))
	}
	return sleeper(name, "    ports: ["+strings.Join(out, ", ")+"]\n  hostNetwork: true\n  nodeName: "+node+"\n")
}

// TestUnreachableAgent: nobody can open a connection to the machine, as behind NAT
// or a firewall.
func TestUnreachableAgent(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	c.join(t, 1) // a peer that does not hear from it
	n := c.prepareAgent(t, "node-label: [reach=none]")
	if err := n.Holder.Run("nft", "add table inet e2e; add chain inet e2e in { type filter hook input priority 0; policy drop; }; "+
		"add rule inet e2e in iifname != eth0 accept; add rule inet e2e in ct state established,related accept; add rule inet e2e in icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Holder.Run("nft", "delete table inet e2e") })
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.server.Netns().Dial(soon, "tcp", n.Addr.String()+":10250"); err == nil {
		t.Fatal("the kubelet can be dialled, this test shows nothing")
	}
	ns := newNamespace(t, c.server)
	ns.eventually("the agent to say that no other node reaches it", func() error {
		r, err := n.Status()
		return errors.Join(err, contains(r.Stdout+r.Stderr, "no other node has answered through the tunnel yet: on all nodes let UDP port 8472 in"))
	})
	ns.apply(strings.Replace(hostPortPod("far", 28083), "spec:", "spec:\n  nodeSelector: {reach: none}", 1))
	ns.readyPod("far")
	ns.streamsThroughTunnel()
	ns.mustEqual("the API proxy to a pod", ns.kubectl("get", "--raw", "/api/v1/namespaces/"+ns.name+"/pods/far:8080/proxy/hostname"), "far")
	ns.mustContain(ns.kubectl("get", "--raw", "/api/v1/nodes/"+n.ID+"/proxy/healthz"), "ok")
	ns.mustContain(ns.kubectl("get", "--raw", "/api/v1/nodes/"+n.ID+"/proxy/metrics/resource"), "node_cpu_usage_seconds_total", `pod="far"`)
	ns.calls(strings.Replace(testdata(t, "webhook.yaml"), "spec:", "spec:\n  nodeSelector: {reach: none}", 1))
	ns.forwardsThroughTunnel(c.server)
}

// streamsThroughTunnel uses exec, logs and attach on the node that nobody reaches.
func (ns *namespace) streamsThroughTunnel() {
	ns.Helper()
	ns.eventuallyExec("far", "far", "/server", "get", "http://127.0.0.1:8080/hostname")
	big := strings.Repeat("0123456789abcdef", 1<<18)
	if back := ns.kubectlFor(big, "exec", "-i", "far", "--", "cat"); back != big {
		ns.Errorf("%d bytes through exec came back as %d", len(big), len(back))
	}
	ns.apply(sleeper("talker", "  nodeSelector: {reach: none}\n"))
	ns.readyPod("talker")
	ns.kubectl("exec", "talker", "--", "sh", "-c", "echo hello > /proc/1/fd/1")
	ns.eventually("logs", func() error { return contains(ns.logs("talker"), "hello") })
	ns.attaches(strings.Replace(reader, "spec:", "spec:\n  nodeSelector: {reach: none}", 1))
}

// forwardsThroughTunnel forwards a port of the server's to the pod "far".
func (ns *namespace) forwardsThroughTunnel(server *node) {
	ns.Helper()
	cmd, out := ns.background("port-forward", "--address", "127.0.0.1", "pod/far", "28090:8080")
	if err := cmd.Start(); err != nil {
		ns.Fatal(err)
	}
	ns.eventually("port-forward", func() error {
		name, err := server.Netns().Get("http://127.0.0.1:28090/hostname")
		if err == nil && name != "far" {
			err = fmt.Errorf("%q answered", name)
		}
		if err != nil {
			err = fmt.Errorf("%w; kubectl says %s", err, out)
		}
		return err
	})
	_ = cmd.Process.Signal(os.Interrupt)
	_ = ns.ended(cmd, out)
}

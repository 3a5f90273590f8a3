package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What every site calls its router and its machine.
const siteRouter, siteMachine = "192.168.77.1", "192.168.77.10"

// newMachineAtSite is a machine of a network of its own, behind a router that
// translates addresses.
func newMachineAtSite(t *testing.T) (*machine, error) {
	t.Helper()
	sw, err := sharedLAN()
	if err != nil {
		return nil, err
	}
	router, err := newHolder("unshare --net -- sh -ec", "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; echo ready; exec cat", nil)
	if err != nil {
		return nil, fmt.Errorf("making a site's router: %w", err)
	}
	t.Cleanup(router.close)
	outside, err := sw.attach(router.pid(), "br0", lanPrefix)
	if err != nil {
		return nil, err
	}
	m, err := newMachine()
	if err != nil {
		return nil, err
	}
	m.addr = netip.MustParseAddr(siteMachine)
	for _, step := range []struct {
		on   *holder
		argv []string
	}{
		{router, []string{"ip", "address", "add", outside.String() + "/24", "dev", "eth0"}},
		{router, []string{"ip", "link", "set", "eth0", "up"}},
		{router, []string{"nft", "add table ip site; add chain ip site out { type nat hook postrouting priority 100; }; add rule ip site out oifname eth0 masquerade"}},
		{m.holder, []string{"ip", "link", "delete", "eth0"}},
		{router, []string{"ip", "link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(m.holder.pid())}},
		{router, []string{"ip", "address", "add", siteRouter + "/24", "dev", "inside"}},
		{router, []string{"ip", "link", "set", "inside", "up"}},
		{m.holder, []string{"ip", "address", "add", siteMachine + "/24", "dev", "eth0"}},
		{m.holder, []string{"ip", "link", "set", "eth0", "up"}},
		{m.holder, []string{"ip", "route", "add", "default", "via", siteRouter}},
	} {
		if err := step.on.run(step.argv...); err != nil {
			return nil, errors.Join(err, m.destroy())
		}
	}
	return m, nil
}

// TestTwoSites: the machines of two sites have the same address, and both are
// nodes that can be looked into.
func TestTwoSites(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	for range 2 {
		m, err := newMachineAtSite(t)
		if err != nil {
			t.Fatal(err)
		}
		n, err := newAgentOn(m, c.server)
		n.closeAfter(t)
		if err != nil {
			t.Fatal(err)
		}
		c.agents = append(c.agents, n)
	}
	if err := together(c.agents, (*node).start); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, c.server)
	for i, n := range c.agents {
		if got := n.object(t).Status.Addresses[0]; got != (corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: siteMachine}) {
			t.Errorf("%s is at %v", n.id, got)
		}
		name := fmt.Sprintf("at-site-%d", i)
		ns.apply(sleeper(name, "  nodeName: "+n.id+"\n"))
		ns.readyPod(name)
		ns.kubectl("exec", name, "--", "sh", "-c", "echo hello from "+n.id+" > /proc/1/fd/1")
		ns.eventually("logs", func() error { return contains(ns.logs(name), "hello from "+n.id) })
	}
	// Pods of the host's network have the address of both: there is no telling.
	ns.apply(sleeper("host", "  hostNetwork: true\n  nodeName: "+c.agents[0].id+"\n"))
	ns.readyPod("host")
	_, err := ns.tryKubectl("get", "--raw", "/api/v1/namespaces/"+ns.name+"/pods/host:9/proxy/")
	if err == nil {
		err = errors.New("it was answered")
	}
	for _, part := range []string{c.agents[0].id, c.agents[1].id, "all say that they have this address"} {
		if e := contains(err.Error(), part); e != nil {
			t.Errorf("asking %s: %v", siteMachine, e)
		}
	}
}

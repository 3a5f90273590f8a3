package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"brink/e2e/machine"

	corev1 "k8s.io/api/core/v1"
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
	// Pods of the host's network have the address of both: who has the port has it. Where
	// both do there is no telling, and a port that no pod has is nobody's.
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
			t.Errorf("asking %s for the port of %s: %v", siteMachine, n.ID, err)
		}
	}
	for _, part := range []string{c.agents[0].ID, c.agents[1].ID, "all say that they have this address"} {
		if err := contains(asks(9100).Error(), part); err != nil {
			t.Errorf("asking %s for a port of both: %v", siteMachine, err)
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

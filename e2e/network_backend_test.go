package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

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
	// A client that asks the pods of all nodes meanwhile sees delays at most: no route
	// is missing for as long as a request waits, which is ten seconds.
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	asking := ask(sw.Netns(), "http://"+c.agents[0].Addr.String()+":"+d.nodePort("all", "http")+"/hostname")
	t.Cleanup(asking.stop)
	for _, backend := range []string{"vxlan", "host-gw"} {
		if err := c.server.Configure("flannel-backend", backend); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes() {
			if err := n.Restart(); err != nil {
				t.Fatal(err)
			}
			d.eventually(fmt.Sprintf("the pod network with a part of the nodes switched to %s", backend), d.allReachAll)
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
	if err := c.server.Configure("flannel-backend", "host-gw"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes() {
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	for n, peer := range map[*node]*node{c.server: other, other: c.server} {
		d.eventually("a warning about "+peer.ID, func() error {
			r, err := n.Status()
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

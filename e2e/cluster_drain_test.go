package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestDrainAndDelete takes a node away as an administrator does. The cluster has
// room for four nodes only, so the next one needs the first one's range.
func TestDrainAndDelete(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, "cluster-cidr: 10.42.0.0/22")
	ns := newNamespace(t, c.server)
	ns.apply(movers)
	ns.readyPods("app=movers", 3)
	leaver := c.agents[0]
	ns.kubectl("cordon", leaver.ID)
	if !leaver.object(t).Spec.Unschedulable {
		t.Error("a cordoned node is schedulable")
	}
	ns.kubectl("uncordon", leaver.ID)
	ns.kubectl("drain", leaver.ID, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
	ns.onOthers("app=movers", 3, leaver)
	cidr := leaver.object(t).Spec.PodCIDR
	peers := []*node{c.server, c.agents[1], c.agents[2]}
	have := func(want bool) error {
		var errs []error
		for _, peer := range peers {
			r, err := peer.Run("", "sh", "-ec", "ip route; ip neigh show dev brink-vxlan; bridge fdb show dev brink-vxlan")
			if err == nil && r.Code != 0 {
				err = fmt.Errorf("looking at %s: %v", peer.ID, r)
			}
			if found := strings.Contains(r.Stdout, strings.TrimSuffix(cidr, "0/24")) || strings.Contains(r.Stdout, leaver.Addr.String()+" self"); found != want {
				err = errors.Join(err, fmt.Errorf("%s has\n%s", peer.ID, r.Stdout))
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if err := have(true); err != nil {
		t.Errorf("before the deletion: %v", err)
	}
	if err := leaver.Stop(); err != nil {
		t.Fatal(err)
	}
	ns.kubectl("delete", "node", leaver.ID)
	ns.eventually("the deleted node to vanish from its peers' kernels", func() error { return have(false) })

	next := c.join(t, 1)[0]
	ns.mustEqual("the range of the next node", next.object(t).Spec.PodCIDR, cidr)
	// This one runs on when it is deleted, as a machine that nobody can reach.
	ns.kubectl("delete", "node", next.ID)
	ns.eventually("the deleted node to say so", func() error {
		r, err := next.Status()
		if err == nil && r.Code != 1 {
			err = fmt.Errorf("exit code %d", r.Code)
		}
		return errors.Join(err, contains(r.Stdout+r.Stderr, "was deleted from the cluster: restart brink to join again with the token in its settings"))
	})
	// The first one comes back by being started: it has a token.
	if err := leaver.Start(); err != nil {
		t.Fatal(err)
	}
	ns.mustEqual("the range of the node that is back", leaver.object(t).Spec.PodCIDR, cidr)
	ns.kubectl("scale", "deployment", "movers", "--replicas=6")
	ns.readyPods("app=movers", 6)
	back, err := podOf(ns.pods("app=movers"), leaver)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{c.server, c.agents[1]} {
		url := "http://" + back.Status.PodIP + ":8080/hostname"
		ns.eventually("a pod of a range that another one had", func() error {
			got, err := n.Netns().Get(url)
			if err == nil && got != back.Name {
				err = fmt.Errorf("%q answered", got)
			}
			return err
		})
	}
}

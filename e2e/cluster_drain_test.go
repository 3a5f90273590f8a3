package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
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
	if err := allKnow(peers, leaver, cidr, true); err != nil {
		t.Errorf("before the deletion: %v", err)
	}
	if err := leaver.Stop(); err != nil {
		t.Fatal(err)
	}
	ns.kubectl("delete", "node", leaver.ID)
	ns.eventually("the deleted node to vanish from its peers' kernels", func() error { return allKnow(peers, leaver, cidr, false) })

	next := c.join(t, 1)[0]
	ns.mustEqual("the range of the next node", next.object(t).Spec.PodCIDR, cidr)
	// This one runs on when it is deleted, as an unreachable machine would.
	ns.kubectl("delete", "node", next.ID)
	next.saysItWasDeleted(ns)
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
		ns.eventually("a pod of a range that another one had", func() error { return n.hearsName(back) })
	}
}

// allKnow returns nil when the kernels of all peers have what leads to a node and its range
// of pods, or none of them when it is not wanted.
func allKnow(peers []*node, n *node, cidr string, wanted bool) error {
	var errs []error
	for _, peer := range peers {
		r, err := peer.Run("", "sh", "-ec", "ip route; ip neigh show dev brink-vxlan; bridge fdb show dev brink-vxlan")
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("looking at %s: %v", peer.ID, r)
		}
		if found := strings.Contains(r.Stdout, strings.TrimSuffix(cidr, "0/24")) || strings.Contains(r.Stdout, n.Addr.String()+" self"); found != wanted {
			err = errors.Join(err, fmt.Errorf("%s has\n%s", peer.ID, r.Stdout))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// saysItWasDeleted waits until brink status fails with the reason.
func (n *node) saysItWasDeleted(ns *namespace) {
	ns.Helper()
	ns.eventually("the deleted node to say so", func() error {
		r, err := n.Status()
		if err == nil && r.Code != 1 {
			err = fmt.Errorf("exit code %d", r.Code)
		}
		return errors.Join(err, contains(r.Stdout+r.Stderr, "was deleted from the cluster: restart brink to join again with the token in its settings"))
	})
}

// hearsName returns nil when a pod of the test server tells the node its own name.
func (n *node) hearsName(pod corev1.Pod) error {
	got, err := n.Netns().Get("http://" + pod.Status.PodIP + ":8080/hostname")
	if err == nil && got != pod.Name {
		err = fmt.Errorf("%q answered", got)
	}
	return err
}

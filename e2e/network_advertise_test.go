package e2e

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/e2e/machine"
)

// TestAdvertisedAddress: a server that is reached from outside by another address
// tells its agents and all pods that one; either is enough for an agent.
func TestAdvertisedAddress(t *testing.T) {
	t.Parallel()
	server := prepareNode(t)
	const outside = "10.99.0.1"
	server.Config = append(server.Config, "node-external-ip: "+outside)
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(server.WriteConfig(),
		server.Holder.Run("ip", "address", "add", outside+"/32", "dev", "lo"),
		sw.Run("ip", "route", "add", outside, "via", server.Addr.String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sw.Run("ip", "route", "del", outside) })
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	c := &cluster{server: server}
	n := c.join(t, 1)[0]
	ns := newNamespace(t, server)
	ns.eventually("the Service kubernetes to lead there", func() error {
		slices, err := server.Client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
		if err == nil && (len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != 1 || slices.Items[0].Endpoints[0].Addresses[0] != outside) {
			err = fmt.Errorf("it leads to %+v", slices.Items)
		}
		return err
	})
	ns.eventually("the agent to be told", func() error {
		text, err := os.ReadFile(n.Layout().Servers())
		return errors.Join(err, contains(string(text), outside+":6443"))
	})
	ns.eventually("a tunnel by it", func() error {
		return n.Says("err", `msg="tunnel is up" component=tunnel-client server=`+outside+":6443")
	})
	ns.mustContain(ns.kubectl("--server", "https://"+outside+":6443", "get", "nodes"), n.ID)
	ns.apply(sleeper("inside", "  nodeName: "+n.ID+"\n"))
	ns.readyPod("inside")
	ns.mustContain(ns.kubectl("exec", "inside", "--", "sh", "-c", "nc -w 10 10.43.0.1 443 < /dev/null && echo there"), "there")
	n.failsOver(ns)
}

// failsOver: the address that the agent was given leads nowhere any more, while it
// runs and when it starts. It knows another one.
func (n *node) failsOver(ns *namespace) {
	ns.Helper()
	err := n.Holder.Run("nft", "add table inet e2e; add chain inet e2e out { type filter hook output priority 0; }; "+
		"add rule inet e2e out ip daddr "+n.Server.Addr.String()+" tcp dport 6443 drop")
	if err != nil {
		ns.Fatal(err)
	}
	defer func() { _ = n.Holder.Run("nft", "delete table inet e2e") }()
	begun := time.Now()
	ns.eventually("a heartbeat by the other address", func() error { return n.beats(ns.T, begun) })
	if c := machine.ReadyCondition(n.object(ns.T)); c.Status != corev1.ConditionTrue || c.LastTransitionTime.After(begun) {
		ns.Errorf("before the agent came by its other address the node was not Ready: %s since %v", c.Status, c.LastTransitionTime)
	}
	ns.Logf("the agent's heartbeat is back after %v", time.Since(begun).Round(time.Second))
	ns.mustContain(ns.kubectl("exec", "inside", "--", "echo", "still here"), "still here")
	if err := errors.Join(n.Kill(), n.Start()); err != nil {
		ns.Fatal(err)
	}
	ns.eventuallyExec("inside", "still here", "echo", "still here")
}

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"brink/e2e/machine"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// movers is a Deployment whose pods leave a lost node soon.
const movers = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: movers}
spec:
  replicas: 3
  selector: {matchLabels: {app: movers}}
  template:
    metadata: {labels: {app: movers}}
    spec:
      terminationGracePeriodSeconds: 1
` + hasty + `      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: movers}}}
      containers: [{name: server, image: e2e.local/server:1}]
---
apiVersion: v1
kind: Service
metadata: {name: movers}
spec:
  type: NodePort
  selector: {app: movers}
  ports: [{port: 80, targetPort: 8080}]
`

// hasty are the tolerations of a pod that does not wait long for its node.
const hasty = `      tolerations:
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
`

// ready waits for a node's Ready condition.
func (ns *namespace) nodeIs(n *node, want corev1.ConditionStatus) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("node %s with Ready=%s", n.ID, want), func() error {
		if c := machine.ReadyCondition(n.object(ns.T)); c.Status != want {
			return fmt.Errorf("it is %s: %s", c.Status, c.Message)
		}
		return nil
	})
}

// onOthers waits until all pods of a set are Ready and none on a node.
func (ns *namespace) onOthers(selector string, count int, n *node) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("%d pods of %s on other nodes than %s", count, selector, n.ID), func() error {
		ready := 0
		for _, pod := range ns.pods(selector) {
			if pod.Spec.NodeName != n.ID && podReady(&pod) && pod.DeletionTimestamp == nil {
				ready++
			}
		}
		if ready != count {
			return fmt.Errorf("there are %d", ready)
		}
		return nil
	})
}

// TestPartition: a node that nobody reaches, and that reaches nobody, for longer
// than its pods may wait.
func TestPartition(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2, "kube-controller-manager-arg: [node-monitor-grace-period=25s]")
	ns := newNamespace(t, c.server)
	ns.apply(movers)
	pods := ns.readyPods("app=movers", 3)
	lost := c.agents[0]
	if _, err := podOf(pods, lost); err != nil {
		lost = c.agents[1] // 3 pods are not all on the server
	}
	healed := false
	t.Cleanup(func() {
		if !healed {
			_ = lost.Heal()
		}
	})
	if err := lost.Isolate(); err != nil {
		t.Fatal(err)
	}
	ns.nodeIs(lost, corev1.ConditionUnknown)
	tainted := func() error {
		for _, taint := range lost.object(t).Spec.Taints {
			if taint.Key == corev1.TaintNodeUnreachable && taint.Effect == corev1.TaintEffectNoExecute {
				return nil
			}
		}
		return fmt.Errorf("taints are %v", lost.object(t).Spec.Taints)
	}
	ns.eventually("the taint of a lost node", tainted)
	ns.onOthers("app=movers", 3, lost)
	if running := lost.containers(t); running == 0 {
		t.Error("the lost node has stopped its pods: it cannot know that they have moved")
	}
	begun := time.Now()
	healed = true
	if err := lost.Heal(); err != nil {
		t.Fatal(err)
	}
	ns.nodeIs(lost, corev1.ConditionTrue)
	t.Logf("Ready %v after the link is back", time.Since(begun).Round(time.Second))
	ns.eventually("the pods that have moved to end where they were", func() error {
		for _, pod := range ns.pods("app=movers") {
			if pod.Spec.NodeName == lost.ID {
				return fmt.Errorf("%s is still there", pod.Name)
			}
		}
		if n := lost.containers(t); n > 0 {
			return fmt.Errorf("%d containers run", n)
		}
		return nil
	})
}

// containers counts those of the test server on the machine.
func (n *node) containers(t *testing.T) int {
	t.Helper()
	count := 0
	for _, pid := range n.Processes() {
		if strings.HasPrefix(machine.CommandLine(pid), "/server") {
			count++
		}
	}
	return count
}

// asker asks a URL again and again and counts what fails.
type asker struct {
	stop func()
	done chan struct{}

	mu       sync.Mutex
	asked    int
	failures []string
}

func ask(from machine.Netns, url string) *asker {
	ctx, cancel := context.WithCancel(context.Background())
	a := &asker{stop: cancel, done: make(chan struct{})}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}}
	go func() {
		defer close(a.done)
		for ctx.Err() == nil {
			resp, err := client.Get(url)
			if err == nil {
				_ = resp.Body.Close()
			}
			a.mu.Lock()
			a.asked++
			if err != nil {
				a.failures = append(a.failures, time.Now().Format(time.TimeOnly)+" "+err.Error())
			}
			a.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return a
}

// end returns how many requests there were, and those that failed.
func (a *asker) end() (int, []string) {
	a.stop()
	<-a.done
	return a.asked, a.failures
}

// TestServerAway: agents work on while the server is killed, stopped and started,
// and so does an agent's pod while its brink is killed.
func TestServerAway(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	ns := newNamespace(t, c.server)
	patient := strings.Replace(movers, hasty, "", 1)
	ns.apply(strings.Replace(patient, "      topologySpread", "      nodeSelector: {node: agent}\n      topologySpread", 1))
	for _, n := range c.agents {
		ns.kubectl("label", "node", n.ID, "node=agent")
	}
	before := ns.readyPods("app=movers", 3)
	for _, wait := range before[0].Spec.Tolerations { // which the API server has given it
		if wait.TolerationSeconds == nil || *wait.TolerationSeconds != 300 {
			t.Errorf("a pod without tolerations waits for its node as by %+v, not 300 s", wait)
		}
	}
	ns.mustEqual("its tolerations", len(before[0].Spec.Tolerations), 2)
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	// The node that is asked has pods of the other agent behind its NodePort too.
	url := "http://" + c.agents[0].Addr.String() + ":" + ns.nodePort("movers", "") + "/hostname"
	ns.getFrom(sw.Netns(), url)
	asking := ask(sw.Netns(), url)
	t.Cleanup(asking.stop)
	for _, outage := range []struct {
		what string
		end  func() error
		last time.Duration
	}{
		{"killing", c.server.Kill, 15 * time.Second},
		{"stopping", c.server.Stop, 80 * time.Second}, // longer than a node may be silent
	} {
		what := outage.what
		if err := outage.end(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(outage.last)
		if err := c.server.Start(); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for _, n := range c.agents {
			ns.eventually("a heartbeat of "+n.ID+" after "+what+" the server", func() error { return n.beats(t, begun) })
		}
		t.Logf("agents are back %v after the server", time.Since(begun).Round(time.Second))
	}
	for _, n := range c.agents {
		// It tries every ten seconds.
		if said := strings.Count(machine.Tail(n.LogFile("err", n.Starts), 1<<20), "Failed to update lease"); said > 2 {
			t.Errorf("%s has said %d times that it has no server", n.ID, said)
		}
		for _, taint := range n.object(t).Spec.Taints {
			t.Errorf("%s is tainted with %s after its server was away", n.ID, taint.Key)
		}
	}
	if err := errors.Join(c.agents[1].Kill(), c.agents[1].Start()); err != nil {
		t.Fatal(err)
	}
	if asked, failed := asking.end(); asked < 100 || len(failed) > 0 {
		t.Errorf("%d requests, of which failed:\n%s", asked, strings.Join(failed, "\n"))
	}
	after := map[string]int32{}
	for _, pod := range ns.pods("app=movers") {
		after[pod.Name] = restarts(&pod)
	}
	for _, pod := range before {
		if count, ok := after[pod.Name]; !ok || count != 0 {
			t.Errorf("%s: there %t, %d restarts", pod.Name, ok, count)
		}
	}
	ns.eventuallyExec(before[0].Name, "1", "cat", "/version") // the tunnels are back too
}

// beats is nil when the node has renewed its lease since then.
func (n *node) beats(t *testing.T, since time.Time) error {
	t.Helper()
	lease, err := n.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(t.Context(), n.ID, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !lease.Spec.RenewTime.After(since) {
		return fmt.Errorf("the last was at %v", lease.Spec.RenewTime)
	}
	return nil
}

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
		r, err := next.Brink(append([]string{"status"}, next.Flags("data-dir")...)...)
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
		r, err := n.Brink(append([]string{"status"}, n.Flags("data-dir")...)...)
		return errors.Join(err, contains(r.Stdout+r.Stderr, "no other node has answered through the tunnel yet: on all nodes let UDP port 8472 in"))
	})
	ns.apply(strings.Replace(hostPortPod("far", 28083), "spec:", "spec:\n  nodeSelector: {reach: none}", 1))
	ns.readyPod("far")
	ns.eventuallyExec("far", "far", "/server", "get", "http://127.0.0.1:8080/hostname")
	big := strings.Repeat("0123456789abcdef", 1<<18)
	if back := ns.kubectlFor(big, "exec", "-i", "far", "--", "cat"); back != big {
		t.Errorf("%d bytes through exec came back as %d", len(big), len(back))
	}
	ns.apply(sleeper("talker", "  nodeSelector: {reach: none}\n"))
	ns.readyPod("talker")
	ns.kubectl("exec", "talker", "--", "sh", "-c", "echo hello > /proc/1/fd/1")
	ns.eventually("logs", func() error { return contains(ns.logs("talker"), "hello") })
	ns.attaches(strings.Replace(reader, "spec:", "spec:\n  nodeSelector: {reach: none}", 1))
	ns.mustEqual("the API proxy to a pod", ns.kubectl("get", "--raw", "/api/v1/namespaces/"+ns.name+"/pods/far:8080/proxy/hostname"), "far")
	ns.mustContain(ns.kubectl("get", "--raw", "/api/v1/nodes/"+n.ID+"/proxy/healthz"), "ok")
	ns.mustContain(ns.kubectl("get", "--raw", "/api/v1/nodes/"+n.ID+"/proxy/metrics/resource"), "node_cpu_usage_seconds_total", `pod="far"`)
	ns.calls(strings.Replace(testdata(t, "webhook.yaml"), "spec:", "spec:\n  nodeSelector: {reach: none}", 1))
	cmd, out := ns.background("port-forward", "--address", "127.0.0.1", "pod/far", "28090:8080")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ns.eventually("port-forward", func() error {
		name, err := c.server.Netns().Get("http://127.0.0.1:28090/hostname")
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

// TestServerMoves: DHCP gives a server another address. It ends, is started again as a
// service manager does, and is found where it is now; its pods do not notice.
func TestServerMoves(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	old := n.Addr
	if err := n.moveTo(t); err != nil {
		t.Fatal(err)
	}
	n.ends(t, n.Addr.String(), old.String(), "start brink again")
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns.mustEqual("the node's address", n.object(t).Status.Addresses[0].Address, n.Addr.String())
	ns.eventually("a pod to find the API by its Service", func() error {
		said, err := ns.tryKubectl("exec", "box", "--", "sh", "-c", "nc -w 10 10.43.0.1 443 < /dev/null && echo there")
		return errors.Join(err, contains(said, "there"))
	})
	ns.mustContain(ns.kubectl("--server", "https://"+n.Addr.String()+":6443", "get", "nodes"), n.ID)
	if pod := ns.readyPod("box"); restarts(pod) != 0 {
		t.Errorf("the pod was started again %d times", restarts(pod))
	}
}

package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cluster is a server and the agents that have joined it, each a machine on the
// same switch.
type cluster struct {
	server *node
	agents []*node
}

// startCluster gives a test a cluster of its own: a server with the given lines in
// its configuration, and agents. At its end all of them are uninstalled, and
// leaving something behind fails the test.
func startCluster(t *testing.T, agents int, config ...string) *cluster {
	t.Helper()
	c := &cluster{server: startNode(t, config...)}
	c.agents = c.join(t, agents)
	return c
}

// join starts further agents, all at once.
func (c *cluster) join(t *testing.T, agents int, config ...string) []*node {
	t.Helper()
	var fresh []*node
	for range agents {
		fresh = append(fresh, c.prepareAgent(t, config...))
	}
	if err := together(fresh, (*node).Start); err != nil {
		t.Fatal(err)
	}
	return fresh
}

// prepareAgent is a machine that is ready to join.
func (c *cluster) prepareAgent(t *testing.T, config ...string) *node {
	t.Helper()
	n, err := newAgent(c.server, config...)
	if n != nil {
		n.closeAfter(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// together does the same on all nodes at a time.
func together(nodes []*node, do func(*node) error) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// nodes are all of the cluster's, the server first.
func (c *cluster) nodes() []*node { return append([]*node{c.server}, c.agents...) }

// named is the node of a name.
func (c *cluster) named(name string) *node {
	for _, n := range c.nodes() {
		if n.ID == name {
			return n
		}
	}
	return nil
}

// object is the Node of a machine.
func (n *node) object(t *testing.T) *corev1.Node {
	t.Helper()
	obj, err := n.Client.CoreV1().Nodes().Get(t.Context(), n.ID, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

// controlPlane is the server of all tests about joining that leave it alone: with
// no pods of its own.
var controlPlane = struct {
	once sync.Once
	node *node
	err  error
}{}

// aControlPlane is a cluster without agents, of which each test has its own.
func aControlPlane(t *testing.T) *cluster {
	t.Helper()
	controlPlane.once.Do(func() {
		if controlPlane.node, controlPlane.err = newNode("disable-agent: true"); controlPlane.err == nil {
			controlPlane.err = controlPlane.node.StartControlPlane()
		}
	})
	if controlPlane.err != nil {
		t.Fatalf("the shared control plane did not start: %v", controlPlane.err)
	}
	return &cluster{server: controlPlane.node}
}

// sharedCluster is the cluster of all scenarios that need several nodes and break
// none of them: a server and three agents.
var sharedCluster = struct {
	once sync.Once
	*cluster
	err error
}{}

func theCluster(t *testing.T) *cluster {
	t.Helper()
	sharedCluster.once.Do(func() { sharedCluster.cluster, sharedCluster.err = makeSharedCluster() })
	if sharedCluster.err != nil {
		t.Fatalf("the shared cluster did not start: %v", sharedCluster.err)
	}
	return sharedCluster.cluster
}

// dualStack is the configuration of a cluster with IPv4 and IPv6.
var dualStack = []string{"cluster-cidr: 10.42.0.0/16,fd42::/56", "service-cidr: 10.43.0.0/16,fd43::/112"}

func makeSharedCluster() (*cluster, error) {
	server, err := newNode(dualStack...)
	c := &cluster{server: server}
	if err != nil {
		return c, err
	}
	if err := server.Start(); err != nil {
		return c, err
	}
	for range 3 {
		n, err := newAgent(server)
		if n != nil {
			c.agents = append(c.agents, n)
		}
		if err != nil {
			return c, err
		}
	}
	return c, together(c.agents, (*node).Start)
}

// closeClusters uninstalls what tests share, agents first.
func closeClusters() error {
	var err error
	if c := sharedCluster.cluster; c != nil {
		err = errors.Join(together(c.agents, (*node).leave), c.server.leave())
	}
	return errors.Join(err, controlPlane.node.leave())
}

// leave uninstalls and destroys the node, if there is one and it was started.
func (n *node) leave() error {
	if n == nil {
		return nil
	}
	return n.Leave()
}

// clusterNamespace is a namespace of the shared cluster.
func clusterNamespace(t *testing.T) (*cluster, *namespace) {
	t.Helper()
	c := theCluster(t)
	return c, newNamespace(t, c.server)
}

// serversOnAll is a DaemonSet of the test server, as pods and on the hosts.
const serversOnAll = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: pods}
spec:
  selector: {matchLabels: {app: pods}}
  template:
    metadata: {labels: {app: pods}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers: [{name: server, image: e2e.local/server:1}]
`

// podOf is the pod of a set on a node.
func podOf(pods []corev1.Pod, n *node) (corev1.Pod, error) {
	for _, p := range pods {
		if p.Spec.NodeName == n.ID {
			return p, nil
		}
	}
	return corev1.Pod{}, fmt.Errorf("no pod on %s", n.ID)
}

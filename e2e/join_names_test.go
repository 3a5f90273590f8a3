package e2e

import (
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSameNames: two machines of one name, as new Raspberry Pis are. The second is told in
// one line what to do, joins with an id in its name, and keeps that over a restart.
func TestSameNames(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	first, n := c.prepareAgent(t), c.prepareAgent(t)
	first.give(t, c.server.newToken(t).Text())
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	n.give(t, c.server.newToken(t).Text())
	if err := n.Configure("node-name", first.ID); err != nil {
		t.Fatal(err)
	}
	n.refuses(t, "belongs to another machine", "hostnamectl set-hostname", "--node-name", "--with-node-id")

	if err := n.Configure("with-node-id", "true"); err != nil {
		t.Fatal(err)
	}
	var names [2]string
	for i := range names {
		if err := n.StartUntil("node " + first.ID + "-"); err != nil {
			t.Fatal(err)
		}
		id, err := os.ReadFile(n.Layout().NodeID())
		if err != nil {
			t.Fatal(err)
		}
		names[i] = first.ID + "-" + strings.TrimSpace(string(id))
		if _, err := c.server.Client.CoreV1().Nodes().Get(t.Context(), names[i], metav1.GetOptions{}); err != nil {
			t.Errorf("start %d: %v", i+1, err)
		}
		if err := n.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if names[0] != names[1] || len(names[0]) != len(first.ID)+9 {
		t.Errorf("the names are %v", names)
	}
}

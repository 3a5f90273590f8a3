package join

import (
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/server/noderecord"
)

// TestProven: the key of a certificate that its machine has proved gets into the
// record, beside those that are there, if what was judged by is still so.
func TestProven(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]provenCase{
		"restored":                     {func(*cluster, machine) {}, 0, true},
		"an older brink is taken over": {func(c *cluster, _ machine) { c.olderBrink() }, 0, true},
		"joined again": {func(c *cluster, m machine) {
			time.Sleep(time.Hour)
			c.isApproved(c.asked(m.joining("till-3")))
		}, time.Hour, false},
		"renewed": {func(c *cluster, m machine) {
			time.Sleep(time.Hour)
			c.isApproved(c.asked(c.by(m.joining("till-3"), "till-3", "present")))
		}, time.Hour, false},
		"the Node made anew": {func(c *cluster, _ machine) {
			c.removeNode("till-3")
			c.addNode("till-3")
		}, 0, false},
		"deleted and another's": {func(c *cluster, _ machine) {
			c.removeNode("till-3")
			c.isApproved(c.asked(newMachine(c.t).joining("till-3")))
			c.addNode("till-3")
			c.isBound("till-3")
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tc.check(t, name == "restored")
			})
		})
	}
}

// provenCase is what happens before a key that was proved gets into the record.
type provenCase struct {
	meanwhile func(*cluster, machine)
	earlier   time.Duration // than now the certificate was signed
	want      bool
}

// check says by keepsFirst whether the key with which the machine has joined is to stay.
func (tc provenCase) check(t *testing.T, keepsFirst bool) {
	c := newCluster(t)
	controller := c.start()
	m := newMachine(t)
	first := m.joining("till-3")
	c.isApproved(c.asked(first))
	c.addNode("till-3")
	c.isBound("till-3")
	record := string(c.record("till-3").UID)
	tc.meanwhile(c, m)
	p := noderecord.Proven{Node: "till-3", Record: record, Key: "proven", NotBefore: time.Now().Add(-tc.earlier - 5*time.Minute).Unix()}
	for range 3 {
		controller.Proven(p)
	}
	if tc.want {
		c.eventually("the key", func() bool { return noderecord.HasKey(c.record("till-3"), "proven") })
	}
	c.isApproved(c.asked(newMachine(t).joining("another"))) // all before was done
	if r := c.record("till-3"); r != nil && noderecord.HasKey(r, "proven") != tc.want {
		t.Errorf("the record has %q, want the key there: %t", r.Data, tc.want)
	}
	if keepsFirst && !noderecord.HasKey(c.record("till-3"), keyIn(t, first)) {
		t.Error("the earlier key is gone")
	}
}

// olderBrink leaves the binding that an older brink makes.
func (c *cluster) olderBrink() {
	c.t.Helper()
	old := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: noderecord.OldRenewals}}
	if _, err := c.RbacV1().ClusterRoleBindings().Create(c.t.Context(), old, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

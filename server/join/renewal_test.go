package join

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"brink/internal/wire/nodekey"
	"brink/internal/wire/nodeuser"
	"brink/server/noderecord"
)

const notYours = `node "till-3" was deleted since this certificate was given for it: join again with a token, which brink token create makes`

// by lets a request be made with a certificate of the record that there is now, as
// the API server writes it down.
func (c *cluster) by(csr *certificatesv1.CertificateSigningRequest, node, key string) *certificatesv1.CertificateSigningRequest {
	c.t.Helper()
	csr.Spec.Username, csr.Spec.Groups = nodeuser.Name(node), []string{nodeuser.Group}
	csr.Spec.Extra = map[string]certificatesv1.ExtraValue{
		noderecord.ExtraRecord: {string(c.record(node).UID)}, noderecord.ExtraKey: {key},
	}
	return csr
}

func keyIn(t *testing.T, csr *certificatesv1.CertificateSigningRequest) string {
	t.Helper()
	_, r, err := read(csr)
	if err != nil {
		t.Fatal(err)
	}
	return r.key
}

// TestRenewal: a record has the keys of its node's certificates, and loses the earlier ones
// when the machine joins again.
func TestRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		m := newMachine(t)
		first := m.joining("till-3")
		c.isApproved(c.asked(first))
		c.addNode("till-3")
		c.isBound("till-3")
		present := keyIn(t, first)
		for range 3 * 16 { // answers that do not arrive
			next := c.by(m.joining("till-3"), "till-3", present)
			c.isApproved(c.asked(next))
			if r := c.record("till-3"); !noderecord.HasKey(r, present) || !noderecord.HasKey(r, keyIn(t, next)) {
				t.Fatalf("the record has the keys %q", r.Data)
			}
		}
		if n := len(c.record("till-3").Data["certificate-keys"]); n > 19*65 {
			t.Errorf("the record has %d bytes of keys", n)
		}
		again := m.joining("till-3")
		c.isApproved(c.asked(again))
		if r := c.record("till-3"); noderecord.HasKey(r, present) || !noderecord.HasKey(r, keyIn(t, again)) {
			t.Errorf("after joining again the record has %q", r.Data)
		}
		c.isRefused(c.asked(c.by(m.joining("till-4"), "till-3", present)), ReasonBadRequest,
			"the common name system:node:till-4 is not that of the node that asks, system:node:till-3")
	})
}

// TestRequestsOfADeletedNode: what a machine has asked for before it was removed is
// not given to it in its successor's name.
func TestRequestsOfADeletedNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		old, successor := newMachine(t), newMachine(t)
		first := old.joining("till-3")
		c.isApproved(c.asked(first))
		c.addNode("till-3")
		c.isBound("till-3")
		renewal := c.by(old.joining("till-3"), "till-3", keyIn(t, first))
		call := c.by(serving(t, "till-3"), "till-3", keyIn(t, first))
		c.isApproved(c.asked(c.by(serving(t, "till-3"), "till-3", keyIn(t, first))))
		c.removeNode("till-3")
		c.eventually("the record goes", func() bool { return c.record("till-3") == nil })
		c.isRefused(c.asked(renewal.DeepCopy()), ReasonNodeDeleted, notYours)
		c.isRefused(c.asked(call.DeepCopy()), ReasonNodeDeleted, notYours)
		c.isApproved(c.asked(successor.joining("till-3")))
		c.addNode("till-3")
		c.isBound("till-3")
		c.isRefused(c.asked(renewal), ReasonNodeDeleted, notYours)
		c.isRefused(c.asked(call), ReasonNodeDeleted, notYours)
		unknown := old.joining("till-3") // by a way that no record vouches for
		unknown.Spec.Username, unknown.Spec.Groups = nodeuser.Name("till-3"), []string{nodeuser.Group}
		c.isRefused(c.asked(unknown), ReasonNodeDeleted, notYours)
	})
}

// TestNodeMadeAnew: a Node that is there again at once is not the one that the
// record is for, whoever made it.
func TestNodeMadeAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		m := newMachine(t)
		c.isApproved(c.asked(m.joining("till-3")))
		c.addNode("till-3")
		c.isBound("till-3")
		before := c.record("till-3").UID
		c.removeNode("till-3")
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "till-3", Annotations: map[string]string{nodekey.NodeAnnotation: string(m.key.Public())}}}
		if _, err := c.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually("the record goes", func() bool { return c.record("till-3") == nil })
		c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, belongs)
		c.isApproved(c.asked(m.joining("till-3"))) // the machine itself, with a token
		c.isBound("till-3")
		if c.record("till-3").UID == before {
			t.Error("the record is the earlier one")
		}
	})
}

// TestMigrates: in a cluster of an older brink all nodes go on, once.
func TestMigrates(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		old := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: noderecord.OldRenewals}}
		if _, err := c.RbacV1().ClusterRoleBindings().Create(t.Context(), old, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"bare", "stale", "without", "own", "made-by-hand"} {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if name != "made-by-hand" {
				node.Annotations = map[string]string{nodekey.NodeAnnotation: "machine"}
			}
			made, err := c.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			record := newRecord(name, claimant{machine: "machine", key: map[string]string{"stale": "an old key"}[name]})
			record.Annotations = map[string]string{nodeUID: string(made.UID)}
			if name == "bare" || name == "stale" {
				if _, err := c.CoreV1().Secrets(namespace).Create(t.Context(), record, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		controller := c.start()
		c.eventually("the old binding to go", func() bool {
			list, err := c.RbacV1().ClusterRoleBindings().List(t.Context(), metav1.ListOptions{})
			return err == nil && len(list.Items) == 0
		})
		for name, want := range map[string]bool{"bare": true, "stale": true, "without": true, "own": false, "made-by-hand": false} {
			if r := c.record(name); (r != nil) != want || want && noderecord.HasKeys(r) {
				t.Errorf("%s has the record %+v", name, r)
			}
		}
		first, second := noderecord.KeyOf([]byte("first")), noderecord.KeyOf([]byte("second"))
		controller.Adopt("bare", first)
		controller.Adopt("bare", second)
		controller.Adopt("nobody", first)
		c.eventually("the key to be written", func() bool { return noderecord.HasKey(c.record("bare"), first) })
		c.isApproved(c.asked(newMachine(t).joining("another")))
		if noderecord.HasKey(c.record("bare"), second) || c.record("nobody") != nil {
			t.Error("a second key was adopted, or one of nobody")
		}
	})
}

// TestAdoptsWhatCameBefore: nodes show their keys before the controller works, and
// while it cannot take over yet.
func TestAdoptsWhatCameBefore(t *testing.T) {
	t.Parallel()
	for what, failures := range map[string]int{"at once": 0, "when it fails at first": 3} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.olderBrink()
				c.PrependReactor("delete", "clusterrolebindings", func(clienttesting.Action) (bool, runtime.Object, error) {
					failures--
					return failures >= 0, nil, apierrors.NewInternalError(errors.New("failed calling webhook"))
				})
				node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "without", Annotations: map[string]string{nodekey.NodeAnnotation: "machine"}}}
				if _, err := c.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				c.addNode("stale")
				if _, err := c.CoreV1().Secrets(namespace).Create(t.Context(), newRecord("stale", claimant{"machine", "an old key"}), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				key := noderecord.KeyOf([]byte("key"))
				c.before = func(controller *Controller) {
					controller.Adopt("without", key)
					controller.Adopt("stale", key)
				}
				c.start()
				has := func(name string) bool { r := c.record(name); return r != nil && noderecord.HasKey(r, key) }
				for _, name := range []string{"without", "stale"} {
					c.eventually("the key of "+name, func() bool { return has(name) })
				}
				for range 3 { // all that was tried again is done, too
					c.isApproved(c.asked(newMachine(t).joining("another-" + c.nextVersion())))
					time.Sleep(200 * time.Millisecond)
				}
				for _, name := range []string{"without", "stale"} {
					if r := c.record(name); !has(name) || noderecord.HasKey(r, "an old key") {
						t.Errorf("%s has %q", name, r.Data)
					}
				}
			})
		})
	}
}

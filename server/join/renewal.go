package join

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"brink/internal/wire/nodekey"
	"brink/internal/wire/nodeuser"
	"brink/server/noderecord"
)

// cachePatience is how long a record that was written may take to come back by the
// caches, by which requests are judged.
const cachePatience = 5 * time.Second

// readRenewal is for a node that asks for its next client certificate.
func readRenewal(csr *certificatesv1.CertificateSigningRequest) (request, error) {
	r, err := readClient(csr)
	if err == nil && csr.Spec.Username != nodeuser.Name(r.node) {
		err = fmt.Errorf("the common name %s is not that of the node that asks, %s", nodeuser.Name(r.node), csr.Spec.Username)
	}
	return r, err
}

// extraOf is what the API server knows of who has made a request, beside the name.
func extraOf(csr *certificatesv1.CertificateSigningRequest, key string) string {
	if values := csr.Spec.Extra[key]; len(values) == 1 {
		return values[0]
	}
	return ""
}

// isOfRecord tells that a request was made by a certificate that counts by this
// record now.
func isOfRecord(csr *certificatesv1.CertificateSigningRequest, record *corev1.Secret, node *corev1.Node) bool {
	uid := ""
	if record != nil {
		uid = string(record.UID)
	}
	return extraOf(csr, noderecord.ExtraRecord) == uid && (record == nil || noderecord.InForce(record, node))
}

// decideRenewal writes the key of a node's next certificate into its record before
// it is signed.
func (c *Controller) decideRenewal(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, r request) (decision, error) {
	record, err := c.cfg.Client.CoreV1().Secrets(namespace).Get(ctx, r.node+recordSuffix, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return notItsRecord(r), nil
	}
	if err != nil {
		return decision{}, err
	}
	node, err := c.node(ctx, r.node)
	if err != nil {
		return decision{}, err
	}
	if !isOfRecord(csr, record, node) {
		return notItsRecord(r), nil
	}
	if !noderecord.HasKey(record, r.key) {
		record = record.DeepCopy()
		noderecord.AddKey(record, extraOf(csr, noderecord.ExtraKey), r.key)
		noderecord.SetKeySince(record, c.now())
		if _, err := c.cfg.Client.CoreV1().Secrets(namespace).Update(ctx, record, metav1.UpdateOptions{}); err != nil {
			return decision{}, err
		}
	}
	return decision{approved: true, message: "the node's own next certificate"}, c.awaitKey(ctx, r)
}

func notItsRecord(r request) decision {
	return refuse(ReasonNodeDeleted, "node %q was deleted since this certificate was given for it: join again with a token, which brink token create makes", r.node)
}

// awaitKey waits until the caches know the key of a certificate that is going to be
// signed: its first use may come quickly.
func (c *Controller) awaitKey(ctx context.Context, r request) error {
	err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, cachePatience, true, func(context.Context) (bool, error) {
		record, err := c.secrets.Get(r.node + recordSuffix)
		return err == nil && noderecord.HasKey(record, r.key), nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("the record of node %s has not come back within %s", r.node, cachePatience)
	}
	return err
}

// Adopt notes that a node of an older brink has shown its certificate's key, for a
// record that has none. It does not wait.
func (c *Controller) Adopt(node, key string) { c.queue.Add(task{kind: adoptKey, name: node, key: key}) }

// adopt writes the key down. Nodes show theirs before this begins to work, and taking
// over forgets what records have.
func (c *Controller) adopt(ctx context.Context, name, key string) error {
	if err := c.takeOver(ctx); err != nil {
		return err
	}
	secrets := c.cfg.Client.CoreV1().Secrets(namespace)
	record, err := secrets.Get(ctx, name+recordSuffix, metav1.GetOptions{})
	if err != nil || noderecord.HasKeys(record) {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	record = record.DeepCopy()
	noderecord.SetKeys(record, key)
	_, err = secrets.Update(ctx, record, metav1.UpdateOptions{})
	return err
}

// takeOver makes the records of a cluster in which an older brink has run fit for
// this one: nodes without one get one, and all adopt the certificate that their
// machine shows next, since that brink has renewed certificates without a word to
// the records.
func (c *Controller) takeOver(ctx context.Context) error {
	bindings := c.cfg.Client.RbacV1().ClusterRoleBindings()
	_, err := bindings.Get(ctx, noderecord.OldRenewals, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	nodes, err := c.cfg.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range nodes.Items {
		if err := c.takeOverNode(ctx, &nodes.Items[i]); err != nil {
			return fmt.Errorf("taking over node %s from an older brink: %w", nodes.Items[i].Name, err)
		}
	}
	err = bindings.Delete(ctx, noderecord.OldRenewals, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// takeOverNode leaves out nodes that have never joined: they do not say whose they
// are.
func (c *Controller) takeOverNode(ctx context.Context, node *corev1.Node) error {
	secrets := c.cfg.Client.CoreV1().Secrets(namespace)
	record, err := secrets.Get(ctx, node.Name+recordSuffix, metav1.GetOptions{})
	says := nodekey.Public(node.Annotations[nodekey.NodeAnnotation])
	switch {
	case apierrors.IsNotFound(err) && (says == "" || node.Name == c.cfg.OwnNode):
		return nil
	case apierrors.IsNotFound(err):
		record = newRecord(node.Name, claimant{machine: says})
		record.Annotations = map[string]string{nodeUID: string(node.UID), noderecord.Adopted: "true"}
		_, err = secrets.Create(ctx, record, metav1.CreateOptions{})
		return err
	case err != nil || !noderecord.HasKeys(record):
		return err
	}
	record = record.DeepCopy()
	noderecord.SetKeys(record)
	_, err = secrets.Update(ctx, record, metav1.UpdateOptions{})
	return err
}

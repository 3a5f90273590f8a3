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

// cachePatience is how long a written record may take to arrive in the caches, by which
// requests are judged.
const cachePatience = 5 * time.Second

// readRenewal reads the request of a node for its next client certificate.
func readRenewal(csr *certificatesv1.CertificateSigningRequest) (request, error) {
	r, err := readClient(csr)
	if err == nil && csr.Spec.Username != nodeuser.Name(r.node) {
		err = fmt.Errorf("the common name %s is not that of the node that asks, %s", nodeuser.Name(r.node), csr.Spec.Username)
	}
	return r, err
}

// extraOf returns what the API server wrote into a request about its maker, beside the
// name.
func extraOf(csr *certificatesv1.CertificateSigningRequest, key string) string {
	if values := csr.Spec.Extra[key]; len(values) == 1 {
		return values[0]
	}
	return ""
}

// isOfRecord reports whether a request was made by a certificate that has its rights by
// this record.
func isOfRecord(csr *certificatesv1.CertificateSigningRequest, record *corev1.Secret, node *corev1.Node) bool {
	uid := ""
	if record != nil {
		uid = string(record.UID)
	}
	return extraOf(csr, noderecord.ExtraRecord) == uid && (record == nil || noderecord.InForce(record, node))
}

// decideRenewal writes the key of a node's next certificate into the node's record, and
// only then has the certificate signed.
func (c *Controller) decideRenewal(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, r request) (decision, error) {
	record, err := c.cfg.Client.CoreV1().Secrets(namespace).Get(ctx, r.node+recordSuffix, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return notOfRecord(r), nil
	}
	if err != nil {
		return decision{}, err
	}
	node, err := c.getNode(ctx, r.node)
	if err != nil {
		return decision{}, err
	}
	if !isOfRecord(csr, record, node) {
		return notOfRecord(r), nil
	}
	if !noderecord.HasKey(record, r.key) {
		record = record.DeepCopy()
		noderecord.AddKey(record, extraOf(csr, noderecord.ExtraKey), r.key)
		noderecord.SetKeySince(record, time.Now())
		if _, err := c.cfg.Client.CoreV1().Secrets(namespace).Update(ctx, record, metav1.UpdateOptions{}); err != nil {
			return decision{}, err
		}
	}
	return decision{approved: true, message: "the node's own next certificate"}, c.awaitKey(ctx, r)
}

func notOfRecord(r request) decision {
	return refuse(ReasonNodeDeleted, "node %q was deleted since this certificate was given for it: join again with a token, which brink token create makes", r.node)
}

// awaitKey waits until the caches have the key of a certificate that is about to be
// signed: it may be used soon after.
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

// Adopt queues the certificate's key that a node of an older brink has shown, for a record
// that has none. It does not block.
func (c *Controller) Adopt(node, key string) { c.queue.Add(task{kind: adoptKey, name: node, key: key}) }

// adopt writes the key into the record. It migrates first: nodes show their keys before the
// controller runs, and migrating drops the keys that records have.
func (c *Controller) adopt(ctx context.Context, name, key string) error {
	if err := c.migrate(ctx); err != nil {
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

// migrate brings the records of a cluster in which an older brink has run up to date: nodes
// without a record get one, and every record adopts the certificate that its machine shows
// next, because that brink renewed certificates without updating the records.
func (c *Controller) migrate(ctx context.Context) error {
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
		if err := c.migrateNode(ctx, &nodes.Items[i]); err != nil {
			return fmt.Errorf("taking over node %s from an older brink: %w", nodes.Items[i].Name, err)
		}
	}
	err = bindings.Delete(ctx, noderecord.OldRenewals, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// migrateNode leaves nodes alone that have never joined: they have no annotation with their
// owner.
func (c *Controller) migrateNode(ctx context.Context, node *corev1.Node) error {
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

package join

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/lifecycle"
	"brink/server/noderecord"
)

// Proven queues a certificate that a machine has proved to be its own and whose key its
// record does not have. It does not block.
func (c *Controller) Proven(p noderecord.Proven) {
	c.queue.Add(task{kind: addProven, name: p.Node, proven: p})
}

// addProven writes the key into the record, if the gate's reasons still hold. It migrates
// first, which would otherwise drop the key again, as in adopt.
func (c *Controller) addProven(ctx context.Context, p noderecord.Proven) error {
	if err := c.migrate(ctx); err != nil {
		return err
	}
	secrets := c.cfg.Client.CoreV1().Secrets(namespace)
	record, err := secrets.Get(ctx, p.Node+recordSuffix, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	node, err := c.getNode(ctx, p.Node)
	if err != nil || !p.Belongs(record, node) || noderecord.HasKey(record, p.Key) {
		return err
	}
	record = record.DeepCopy()
	noderecord.AddKey(record, p.Key, p.Key)
	if _, err := secrets.Update(ctx, record, metav1.UpdateOptions{}); err != nil {
		return err
	}
	lifecycle.Logger(ctx).Info("a node's certificate is newer than its record, as after a restore, and its machine has proved that it is its own",
		"node", p.Node)
	return nil
}

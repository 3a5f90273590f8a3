package join

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"brink/internal/wire/nodekey"
	"brink/server/noderecord"
)

const (
	recordSuffix = noderecord.Suffix
	nodeUID      = noderecord.NodeUID
	// claimedAt is the annotation with the time when a machine last proved itself while
	// there was no Node. Without it, that was when the record was made.
	claimedAt = "brink.io/claimed-at"

	// unusedAfter is how long a machine that has proved itself may take to become a node
	// before another one may have its name. A machine with a tunnel may take longer.
	unusedAfter = 10 * time.Minute
	// keptFor is how long a record without a Node is kept that nobody else wants, when
	// its machine was given a certificate: the machine registers only when it has
	// imported its images, which may be gigabytes from a card.
	keptFor = 24 * time.Hour
)

// owner says to whom a name belongs, from the view of the machine that claims it.
type owner int

const (
	ownerNew     owner = iota // the claimant, since now
	ownerSame                 // the claimant
	ownerOther                // another machine
	ownerJoining              // another machine that is not a node yet
)

// claimant is a machine that claims a name, with the key of the certificate that it is to
// get. Its earlier certificates lose their rights.
type claimant struct {
	machine nodekey.Public
	key     string
}

// claim gives a name to a machine unless the name is another machine's. It reads from the
// datastore and not from a cache; claims are rare.
func (c *Controller) claim(ctx context.Context, name string, by claimant) (owner, error) {
	for range 5 {
		o, err := c.tryClaim(ctx, name, by)
		if !errors.Is(err, errAgain) {
			return o, err
		}
	}
	return 0, fmt.Errorf("node name %s: its record changes all the time", name)
}

// errAgain is returned when somebody else has changed the record in the meantime.
var errAgain = errors.New("try again")

func (c *Controller) tryClaim(ctx context.Context, name string, by claimant) (owner, error) {
	node, err := c.getNode(ctx, name)
	if err != nil {
		return 0, err
	}
	secrets := c.cfg.Client.CoreV1().Secrets(namespace)
	record, err := secrets.Get(ctx, name+recordSuffix, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && node != nil:
		return c.claimNode(ctx, node, by)
	case apierrors.IsNotFound(err):
		_, err = secrets.Create(ctx, newRecord(name, by), metav1.CreateOptions{})
		return ownerNew, againIfChanged(err)
	case err != nil:
		return 0, err
	}
	isOwn := by.machine.Is(nodekey.Public(record.Data[noderecord.MachineKey]))
	switch {
	case node != nil && !noderecord.InForce(record, node): // the record of an earlier Node
	case isOwn:
		return ownerSame, againIfChanged(c.renewClaim(ctx, record, node != nil, by.key))
	case node != nil:
		return ownerOther, nil
	case c.isJoining(name, record):
		return ownerJoining, nil
	}
	if err := againIfChanged(c.removeRecord(ctx, record)); err != nil {
		return 0, err
	}
	return 0, errAgain
}

// claimNode makes the record of a Node that has lost it: because the Node was deleted and
// made again by hand, or in a cluster of an older brink. An annotation of the Node says
// which machine owns it; only that machine could write it. A Node without the annotation
// is a server's own.
func (c *Controller) claimNode(ctx context.Context, node *corev1.Node, by claimant) (owner, error) {
	says := nodekey.Public(node.Annotations[nodekey.NodeAnnotation])
	if says == "" || !by.machine.Is(says) {
		return ownerOther, nil
	}
	record := newRecord(node.Name, by)
	metav1.SetMetaDataAnnotation(&record.ObjectMeta, nodeUID, string(node.UID))
	_, err := c.cfg.Client.CoreV1().Secrets(namespace).Create(ctx, record, metav1.CreateOptions{})
	return ownerSame, againIfChanged(err)
}

// againIfChanged turns the error of a write that came too late into errAgain.
func againIfChanged(err error) error {
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return errAgain
	}
	return err
}

func newRecord(name string, by claimant) *corev1.Secret {
	record := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + recordSuffix},
		Type:       noderecord.Type,
		Data:       map[string][]byte{noderecord.MachineKey: []byte(by.machine)},
	}
	if by.key != "" {
		noderecord.SetKeys(record, by.key)
	}
	return record
}

// renewClaim leaves a machine the certificate with this key and no earlier one. For a
// machine that is not a node now, the time in which it may become one begins anew, and the
// record forgets the Node that the machine was before.
func (c *Controller) renewClaim(ctx context.Context, record *corev1.Secret, hasNode bool, key string) error {
	record = record.DeepCopy()
	noderecord.SetKeys(record, key)
	noderecord.SetKeySince(record, time.Now())
	if !hasNode {
		delete(record.Annotations, nodeUID)
		metav1.SetMetaDataAnnotation(&record.ObjectMeta, claimedAt, time.Now().UTC().Format(time.RFC3339))
	}
	_, err := c.cfg.Client.CoreV1().Secrets(namespace).Update(ctx, record, metav1.UpdateOptions{})
	return err
}

// getNode reads a Node from the datastore, nil when there is none.
func (c *Controller) getNode(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := c.cfg.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return node, nil
}

// isJoining reports whether the machine of a record without a Node may still become a node
// under its name.
func (c *Controller) isJoining(name string, record *corev1.Secret) bool {
	return record.Annotations[nodeUID] == "" && (c.remaining(record, unusedAfter) > 0 || c.hasTunnel(name))
}

// hasTunnel reports whether the machine of a name has a tunnel now.
func (c *Controller) hasTunnel(name string) bool { return len(c.cfg.Sources(name)) > 0 }

// lifetime returns how much longer a record without a Node is kept.
func (c *Controller) lifetime(name string, record *corev1.Secret) time.Duration {
	if record.Annotations[nodeUID] != "" {
		return 0
	}
	whole := unusedAfter
	if noderecord.HasKeys(record) {
		whole = keptFor
	}
	if left := c.remaining(record, whole); left > 0 || !c.hasTunnel(name) {
		return left
	}
	return unusedAfter
}

// remaining returns what is left of a time that began when the machine proved itself.
func (c *Controller) remaining(record *corev1.Secret, whole time.Duration) time.Duration {
	claimed := record.CreationTimestamp.Time
	if again, err := time.Parse(time.RFC3339, record.Annotations[claimedAt]); err == nil {
		claimed = again
	}
	return whole - time.Since(claimed)
}

// removeRecord removes exactly this state of a record.
func (c *Controller) removeRecord(ctx context.Context, record *corev1.Secret) error {
	return c.cfg.Client.CoreV1().Secrets(namespace).Delete(ctx, record.Name, exactly(record))
}

func exactly(s *corev1.Secret) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}}
}

// reconcileRecords binds records to their Nodes and removes those without one.
func (c *Controller) reconcileRecords(ctx context.Context) error {
	all, err := c.secrets.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range all {
		name, ok := strings.CutSuffix(s.Name, recordSuffix)
		if !ok || s.Type != noderecord.Type {
			continue
		}
		if err := c.reconcileRecord(ctx, name, s); err != nil {
			errs = append(errs, fmt.Errorf("reconciling the record of node %s: %w", name, err))
		}
	}
	return firstError(errs)
}

// firstError returns one of errs, so that a thousand records that cannot be written cost one
// line in the log. It prefers errors that are no conflicts.
func firstError(errs []error) error {
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || apierrors.IsConflict(first)) {
			first = err
		}
	}
	return first
}

// reconcileRecord compares a record with the cached Node and, before it writes, with the
// Node in the datastore. A record is bound to a Node once, and only to one that this
// server's caches have: the gate judges by both, and must not find the record first.
func (c *Controller) reconcileRecord(ctx context.Context, name string, record *corev1.Secret) error {
	bound := record.Annotations[nodeUID]
	cached, err := c.nodes.Get(name)
	if err == nil && string(cached.UID) == bound {
		return nil
	}
	node, err := c.getNode(ctx, name)
	switch {
	case err != nil:
		return err
	case node != nil && string(node.UID) == bound:
		return nil
	case node != nil && bound == "":
		if cached == nil || cached.UID != node.UID {
			return nil // its event will come
		}
		record = record.DeepCopy()
		metav1.SetMetaDataAnnotation(&record.ObjectMeta, nodeUID, string(node.UID))
		_, err = c.cfg.Client.CoreV1().Secrets(namespace).Update(ctx, record, metav1.UpdateOptions{})
	default:
		if left := c.lifetime(name, record); left > 0 {
			c.queue.AddAfter(task{kind: reconcileRecords}, left)
			return nil
		}
		err = c.removeRecord(ctx, record)
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

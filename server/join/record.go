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
	// claimedAt is the annotation with when a machine last proved itself while
	// there was no node; missing, it was when the record was made.
	claimedAt = "brink.io/claimed-at"

	// unusedAfter is how long a machine that has proved itself may take to become a
	// node before another one may have its name. It is longer while it has a tunnel.
	unusedAfter = 10 * time.Minute
	// keptFor is how long a record without a node lives that nobody else wants, when
	// its machine was given a certificate: it registers when it has imported its
	// images, gigabytes from a card.
	keptFor = 24 * time.Hour
)

// owner of a name, seen by the machine that asks for it.
type owner int

const (
	ownerNew     owner = iota // nobody's before, its own now
	ownerSame                 // its own
	ownerOther                // another machine's
	ownerJoining              // another machine's that is not a node yet
)

// claimant is a machine that asks for a name, with the key of the certificate that
// it is to get: what it had before counts no more.
type claimant struct {
	machine nodekey.Public
	key     string
}

// claim gives a name to a machine unless it is another one's. What it looks at is
// what the datastore says now; claims are rare.
func (c *Controller) claim(ctx context.Context, name string, by claimant) (owner, error) {
	for range 5 {
		o, err := c.tryClaim(ctx, name, by)
		if !errors.Is(err, errAgain) {
			return o, err
		}
	}
	return 0, fmt.Errorf("node name %s: its record changes all the time", name)
}

// errAgain is returned when somebody else has changed the record meanwhile.
var errAgain = errors.New("try again")

func (c *Controller) tryClaim(ctx context.Context, name string, by claimant) (owner, error) {
	node, err := c.node(ctx, name)
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
		return ownerNew, ifMeanwhile(err)
	case err != nil:
		return 0, err
	}
	isOwn := by.machine.Is(nodekey.Public(record.Data[noderecord.MachineKey]))
	switch {
	case node != nil && !noderecord.InForce(record, node): // it was the Node's before this one
	case isOwn:
		return ownerSame, ifMeanwhile(c.claimAgain(ctx, record, node != nil, by.key))
	case node != nil:
		return ownerOther, nil
	case c.isJoining(name, record):
		return ownerJoining, nil
	}
	if err := ifMeanwhile(c.removeRecord(ctx, record)); err != nil {
		return 0, err
	}
	return 0, errAgain
}

// claimNode gives back a record that a Node has lost: by being made again by hand
// after it was deleted, or in a cluster of an older brink. The Node says whose it
// is; only that machine could write it there. One that says nothing is a server's
// own.
func (c *Controller) claimNode(ctx context.Context, node *corev1.Node, by claimant) (owner, error) {
	says := nodekey.Public(node.Annotations[nodekey.NodeAnnotation])
	if says == "" || !by.machine.Is(says) {
		return ownerOther, nil
	}
	record := newRecord(node.Name, by)
	metav1.SetMetaDataAnnotation(&record.ObjectMeta, nodeUID, string(node.UID))
	_, err := c.cfg.Client.CoreV1().Secrets(namespace).Create(ctx, record, metav1.CreateOptions{})
	return ownerSame, ifMeanwhile(err)
}

// ifMeanwhile turns the errors of a write that came too late into errAgain.
func ifMeanwhile(err error) error {
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

// claimAgain takes the certificates of before from a machine. One that is no node
// now has its time again in which it may become one, and the node that it was
// before is forgotten.
func (c *Controller) claimAgain(ctx context.Context, record *corev1.Secret, hasNode bool, key string) error {
	record = record.DeepCopy()
	noderecord.SetKeys(record, key)
	noderecord.SetKeySince(record, c.now())
	if !hasNode {
		delete(record.Annotations, nodeUID)
		metav1.SetMetaDataAnnotation(&record.ObjectMeta, claimedAt, c.now().UTC().Format(time.RFC3339))
	}
	_, err := c.cfg.Client.CoreV1().Secrets(namespace).Update(ctx, record, metav1.UpdateOptions{})
	return err
}

// node is one as the datastore has it, nil when there is none.
func (c *Controller) node(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := c.cfg.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return node, nil
}

// isJoining tells whether the machine of a record without a node may still become one
// under its name.
func (c *Controller) isJoining(name string, record *corev1.Secret) bool {
	return record.Annotations[nodeUID] == "" && (c.left(record, unusedAfter) > 0 || c.speaks(name))
}

// speaks tells that the machine of a name has a tunnel now.
func (c *Controller) speaks(name string) bool { return len(c.cfg.Sources(name)) > 0 }

// lives is how long a record without a node is still of use.
func (c *Controller) lives(name string, record *corev1.Secret) time.Duration {
	if record.Annotations[nodeUID] != "" {
		return 0
	}
	whole := unusedAfter
	if noderecord.HasKeys(record) {
		whole = keptFor
	}
	if left := c.left(record, whole); left > 0 || !c.speaks(name) {
		return left
	}
	return unusedAfter
}

// left is what is left of a time since a machine has proved itself.
func (c *Controller) left(record *corev1.Secret, whole time.Duration) time.Duration {
	claimed := record.CreationTimestamp.Time
	if again, err := time.Parse(time.RFC3339, record.Annotations[claimedAt]); err == nil {
		claimed = again
	}
	return whole - c.now().Sub(claimed)
}

// removeRecord removes exactly this state of a record.
func (c *Controller) removeRecord(ctx context.Context, record *corev1.Secret) error {
	return c.cfg.Client.CoreV1().Secrets(namespace).Delete(ctx, record.Name, exactly(record))
}

func exactly(s *corev1.Secret) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}}
}

// keepRecords binds records to their nodes and removes those without one.
func (c *Controller) keepRecords(ctx context.Context) error {
	all, err := c.secrets.List(labels.Everything())
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range all {
		if name, ok := strings.CutSuffix(s.Name, recordSuffix); ok && s.Type == noderecord.Type {
			errs = append(errs, c.keepRecord(ctx, name, s))
		}
	}
	return firstOf(errs)
}

// firstOf keeps the log of a thousand records that cannot be written to a line,
// and what is a conflict behind what is not.
func firstOf(errs []error) error {
	var first error
	for _, err := range errs {
		if err != nil && (first == nil || apierrors.IsConflict(first)) {
			first = err
		}
	}
	return first
}

// keepRecord compares with the cache and, before it writes, with the datastore. A
// record is bound to a Node once, and to one that this server's caches have: who
// judges by both of them must not find the record first.
func (c *Controller) keepRecord(ctx context.Context, name string, record *corev1.Secret) error {
	bound := record.Annotations[nodeUID]
	cached, err := c.nodes.Get(name)
	if err == nil && string(cached.UID) == bound {
		return nil
	}
	node, err := c.node(ctx, name)
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
		if left := c.lives(name, record); left > 0 {
			c.queue.AddAfter(task{kind: keepRecords}, left)
			return nil
		}
		err = c.removeRecord(ctx, record)
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

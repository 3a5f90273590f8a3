package join

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
	"brink/internal/wire/nodestatus"
	"brink/server/token"
)

// Reasons of a Denied condition. Its message is one line for the person at the
// machine.
const (
	ReasonNameTaken       = "NameTaken"
	ReasonBadRequest      = "BadRequest"
	ReasonTokenEnded      = "TokenEnded"
	ReasonAddressNotOwned = "AddressNotOwned"
	ReasonNodeDeleted     = "NodeDeleted"
)

const reasonApproved = "BrinkApproved"

const (
	// patience is how long a node may ask for addresses before they are in its
	// status, which a kubelet writes at about the same time.
	patience     = time.Minute
	lookInterval = 2 * time.Second
)

// decision on a request. The zero value is none yet.
type decision struct {
	approved bool
	reason   string
	message  string
	tell     string // a line for the log, if it is worth one
}

func refuse(reason, format string, args ...any) decision {
	return decision{reason: reason, message: fmt.Sprintf(format, args...)}
}

// decide looks at a request and says yes, no, or looks again later.
func (c *Controller) decide(ctx context.Context, name string) error {
	csr, err := c.csrs.Get(name)
	if err != nil || !isOpen(csr) {
		delete(c.firstSeen, name) // gone, or somebody else decided
		return nil
	}
	read := readerOf(csr)
	if read == nil {
		return nil
	}
	var d decision
	r, err := read(csr)
	switch {
	case err != nil && !isUndecided(csr):
		return nil // who has approved it will know
	case err != nil:
		d = refuse(ReasonBadRequest, "%s", err)
	case csr.Spec.SignerName == certificatesv1.KubeletServingSignerName:
		d = c.decideServing(csr, r)
	case isRenewal(csr):
		d, err = c.decideRenewal(ctx, csr, r)
		if err != nil || !isUndecided(csr) {
			return err
		}
	default:
		d, err = c.decideClient(ctx, csr, r)
		if err != nil {
			return err
		}
	}
	if d == (decision{}) {
		c.queue.AddAfter(task{kind: decideRequest, name: name}, c.look)
		return nil
	}
	if err := c.answer(ctx, csr, d); err != nil {
		return err
	}
	delete(c.firstSeen, name)
	c.tell(csr, r, d)
	return nil
}

// tell logs a decision, the same refusal now and then.
func (c *Controller) tell(csr *certificatesv1.CertificateSigningRequest, r request, d decision) {
	who := slog.String("node", r.node)
	by := slog.String("token", tokenOf(csr))
	if !isByToken(csr) {
		by = slog.String("requester", csr.Spec.Username)
	}
	switch {
	case d.tell != "":
		slog.Info(d.tell, "component", "join", who, by)
	case !d.approved && c.said.isNew(r.node+" "+d.message):
		slog.Warn("a certificate was refused", "component", "join", who, by, "reason", d.message)
	}
}

// decideClient decides on a machine that wants to be a node. One that is approved
// has its name recorded before.
func (c *Controller) decideClient(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, r request) (decision, error) {
	proof, ok := csr.Annotations[nodekey.Annotation]
	if !ok {
		return refuse(ReasonBadRequest, "the request has no proof of the machine's node password: is this an agent of brink?"), nil
	}
	machine, err := nodekey.Verify(proof, r.der)
	if err != nil {
		return refuse(ReasonBadRequest, "%s", err), nil
	}
	if state, err := token.StateOf(ctx, c.cfg.Client, tokenOf(csr), c.now()); err != nil {
		return decision{}, err
	} else if state != jointoken.Valid {
		return refuse(ReasonTokenEnded, "token %s is %s: get another one with brink token create", tokenOf(csr), state), nil
	}
	if r.node == c.cfg.OwnNode {
		return refuse(ReasonNameTaken, "node name %q is that of the server: give this machine another --node-name", r.node), nil
	}
	owner, err := c.claim(ctx, r.node, claimant{machine, r.key})
	if err != nil {
		return decision{}, err
	}
	switch owner {
	case ownerNew:
		return decision{approved: true, message: "a new machine", tell: "a new machine joins"}, c.awaitKey(ctx, r)
	case ownerSame:
		return decision{approved: true, message: "the machine that the name belongs to", tell: "a machine joins again"}, c.awaitKey(ctx, r)
	case ownerJoining:
		return refuse(ReasonNameTaken, "node name %q was taken a moment ago by another machine, which is joining: give this one another --node-name", r.node), nil
	}
	return refuse(ReasonNameTaken, "node name %q belongs to another machine: give this one another --node-name, or remove the old node with kubectl delete node %s", r.node, r.node), nil
}

// decideServing decides on a node that wants to be called. A node speaks for its
// own name and for the addresses in its status, unless they are another's.
func (c *Controller) decideServing(csr *certificatesv1.CertificateSigningRequest, r request) decision {
	record, err := c.secrets.Get(r.node + recordSuffix)
	if err != nil {
		record = nil
	}
	node, err := c.nodes.Get(r.node)
	if err != nil {
		node = nil
	}
	if !isOfRecord(csr, record, node) {
		return notItsRecord(r)
	}
	problem := c.foreignAddress(r)
	if problem == "" {
		return decision{approved: true, message: "the node's own name and addresses"}
	}
	now := c.now()
	if _, ok := c.firstSeen[csr.Name]; !ok {
		c.firstSeen[csr.Name] = now
	}
	if now.Sub(c.firstSeen[csr.Name]) < patience {
		return decision{}
	}
	return refuse(ReasonAddressNotOwned, "%s", problem)
}

// foreignAddress says why one of the addresses asked for is not the node's, and
// nothing when all are.
func (c *Controller) foreignAddress(r request) string {
	if len(r.ips) == 0 {
		return ""
	}
	own, err := c.nodes.Get(r.node)
	if err != nil {
		return fmt.Sprintf("node %s has not registered", r.node)
	}
	all, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err.Error()
	}
	for _, ip := range r.ips {
		if !slices.Contains(nodestatus.IPs(own), ip) {
			return fmt.Sprintf("the address %s is not in the status of node %s", ip, r.node)
		}
		for _, other := range all {
			if other.Name != own.Name && contested(ip, own, other) && !c.bothHave(own.Name, other.Name, ip) {
				return fmt.Sprintf("the address %s of node %s is also that of node %s: give each its own with --node-ip, or remove the one that is gone with kubectl delete node %s",
					ip, r.node, other.Name, other.Name)
			}
		}
	}
	return ""
}

// contested tells that two nodes say of an address that it is one's alone. Several
// may be reached from outside by one, that of their router.
func contested(ip netip.Addr, own, other *corev1.Node) bool {
	return slices.Contains(nodestatus.IPs(other), ip) && (slices.Contains(nodestatus.InternalIPs(own), ip) || slices.Contains(nodestatus.InternalIPs(other), ip))
}

// bothHave tells that a node may have an address although another one says that it
// has it. Either the node speaks from there and the other does not, so that it is
// the other who is wrong. Or the two are at sites of their own, where the same
// private addresses are in use: both speak now, from different places, and if the
// other is in this server's network, as it speaks from the address itself, the
// node speaks from outside. Places are told apart by IPv4 only, where a site has
// one address for all.
//
// The certificate matters to who calls kubelets by address, which the API server
// does not. A node that is at the other's site and comes by another uplink would
// get one for the other's address.
func (c *Controller) bothHave(node, other string, ip netip.Addr) bool {
	from, othersFrom := c.cfg.Sources(node), c.cfg.Sources(other)
	if other == c.cfg.OwnNode {
		othersFrom = []netip.Addr{ip}
	}
	otherIsThere := slices.Contains(othersFrom, ip)
	switch {
	case slices.Contains(from, ip):
		return !otherIsThere
	case !ip.IsPrivate() || len(from) == 0 || len(othersFrom) == 0:
		return false
	}
	isElsewhere := func(a netip.Addr) bool {
		return a.Is4() && !slices.Contains(othersFrom, a) && !(otherIsThere && c.isInside(a))
	}
	for _, a := range from {
		if !isElsewhere(a) {
			return false
		}
	}
	return !slices.ContainsFunc(othersFrom, netip.Addr.Is6)
}

// isInside tells that whoever comes from an address may be in this server's network:
// also by its router, when it uses the server's outer address.
func (c *Controller) isInside(a netip.Addr) bool {
	return a.IsPrivate() || slices.Contains(c.cfg.OuterIPs, a)
}

// answer writes a decision. A request that is gone needs none.
func (c *Controller) answer(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, d decision) error {
	condition := certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue,
		Reason: d.reason, Message: d.message, LastUpdateTime: metav1.NewTime(c.now()),
	}
	if d.approved {
		condition.Type, condition.Reason = certificatesv1.CertificateApproved, reasonApproved
	}
	csr = csr.DeepCopy()
	csr.Status.Conditions = append(csr.Status.Conditions, condition)
	_, err := c.cfg.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

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

	"brink/internal/lifecycle"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
	"brink/internal/wire/nodestatus"
	"brink/server/token"
)

// Reasons of a Denied condition. The condition's message is one line for the person at
// the machine.
const (
	ReasonNameTaken       = "NameTaken"
	ReasonBadRequest      = "BadRequest"
	ReasonTokenEnded      = "TokenEnded"
	ReasonAddressNotOwned = "AddressNotOwned"
	ReasonNodeDeleted     = "NodeDeleted"
)

const reasonApproved = "BrinkApproved"

const (
	// patience is how long a request may ask for addresses that are not in the node's
	// status yet: a kubelet writes both at about the same time.
	patience = time.Minute
	// recheckInterval is how often a request that cannot be decided on yet is looked at again.
	recheckInterval = 2 * time.Second
)

// decision is what becomes of a request. The zero value means that it is too early to
// decide.
type decision struct {
	approved bool
	reason   string
	message  string
	event    string // the line for the log of an approval that is worth one
}

func refuse(reason, format string, args ...any) decision {
	return decision{reason: reason, message: fmt.Sprintf(format, args...)}
}

// decide approves or denies a request, or puts it back into the queue for later.
func (c *Controller) decide(ctx context.Context, name string) error {
	csr, err := c.csrs.Get(name)
	if err != nil || !needsWork(csr) {
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
		return nil // approved by somebody else, whose responsibility it is
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
		c.queue.AddAfter(task{kind: decideRequest, name: name}, recheckInterval)
		return nil
	}
	if err := c.answer(ctx, csr, d); err != nil {
		return err
	}
	delete(c.firstSeen, name)
	c.logDecision(ctx, csr, r, d)
	return nil
}

// logDecision logs a decision, but a repeated refusal only once an hour.
func (c *Controller) logDecision(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, r request, d decision) {
	node := slog.String("node", r.node)
	by := slog.String("token", tokenOf(csr))
	if !isByToken(csr) {
		by = slog.String("requester", csr.Spec.Username)
	}
	switch {
	case d.event != "":
		lifecycle.Logger(ctx).Info(d.event, node, by)
	case !d.approved && c.reports.Changed(r.node+" "+d.message, ""):
		lifecycle.Logger(ctx).Warn("a certificate was refused", node, by, "reason", d.message)
	}
}

// decideClient decides on a machine that wants to be a node. It records whose the name is
// before it approves.
func (c *Controller) decideClient(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, r request) (decision, error) {
	proof, ok := csr.Annotations[nodekey.Annotation]
	if !ok {
		return refuse(ReasonBadRequest, "the request has no proof of the machine's node password: is this an agent of brink?"), nil
	}
	machine, err := nodekey.Verify(proof, r.der)
	if err != nil {
		return refuse(ReasonBadRequest, "%s", err), nil
	}
	if state, err := token.StateOf(ctx, c.cfg.Client, tokenOf(csr), time.Now()); err != nil {
		return decision{}, err
	} else if state != jointoken.Valid {
		return refuse(ReasonTokenEnded, "token %s is %s: get another one with brink token create", tokenOf(csr), state), nil
	}
	if r.node == c.cfg.OwnNode {
		return refuse(ReasonNameTaken, "node name %q is that of the server: "+renaming, r.node), nil
	}
	owner, err := c.claim(ctx, r.node, claimant{machine, r.key})
	if err != nil {
		return decision{}, err
	}
	switch owner {
	case ownerNew:
		return decision{approved: true, message: "a new machine", event: "a new machine joins"}, c.awaitKey(ctx, r)
	case ownerSame:
		return decision{approved: true, message: "the machine that the name belongs to", event: "a machine joins again"}, c.awaitKey(ctx, r)
	case ownerJoining:
		return refuse(ReasonNameTaken, "node name %q was taken a moment ago by another machine, which is joining: "+renaming, r.node), nil
	}
	return refuse(ReasonNameTaken, "node name %q belongs to another machine: "+renaming+"; if it is the same machine, set up anew: kubectl delete node %s", r.node, r.node), nil
}

// renaming is what to do about a name that two machines have. Every new Raspberry Pi is
// called raspberrypi.
const renaming = "rename this one with hostnamectl set-hostname NAME, or give --node-name NAME or --with-node-id"

// decideServing decides on a kubelet's serving certificate. A node may have its own name
// and the addresses in its status in it, unless they are another node's.
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
		return notOfRecord(r)
	}
	problem := c.foreignAddress(r)
	if problem == "" {
		return decision{approved: true, message: "the node's own name and addresses"}
	}
	now := time.Now()
	if _, ok := c.firstSeen[csr.Name]; !ok {
		c.firstSeen[csr.Name] = now
	}
	if now.Sub(c.firstSeen[csr.Name]) < patience {
		return decision{}
	}
	return refuse(ReasonAddressNotOwned, "%s", problem)
}

// foreignAddress returns why one of the requested addresses is not the node's, "" when all
// are.
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
			if other.Name != own.Name && contested(ip, own, other) && !c.mayShareAddress(own.Name, other.Name, ip) {
				return fmt.Sprintf("the address %s of node %s is also that of node %s: give each its own with --node-ip, or remove the one that is gone with kubectl delete node %s",
					ip, r.node, other.Name, other.Name)
			}
		}
	}
	return ""
}

// contested reports whether two nodes claim an address of which at least one says that it
// is internal, and so its alone. An external address may be that of a router by which
// several nodes are reached.
func contested(ip netip.Addr, own, other *corev1.Node) bool {
	return slices.Contains(nodestatus.IPs(other), ip) && (slices.Contains(nodestatus.InternalIPs(own), ip) || slices.Contains(nodestatus.InternalIPs(other), ip))
}

// mayShareAddress reports whether node may have ip in its certificate although other
// claims the same address. What counts is from where the two speak to this server (the
// sources of their tunnels; this server's own node speaks from its address):
//
//	node speaks   other speaks   ip        their sources                        verdict
//	from ip       not from ip    any       any                                  yes: other is wrong
//	from ip       from ip        any       any                                  no: one is behind the other
//	elsewhere     any            public    any                                  no: there is one such address
//	not at all    any            private   -                                    no: its place is not known
//	elsewhere     not at all     private   -                                    no: other's place is not known
//	elsewhere     from ip        private   node comes from outside, by IPv4     yes: other is in this network
//	elsewhere     from ip        private   node may be inside, see mayBeInside  no: one network, one such address
//	elsewhere     elsewhere      private   IPv4 only, none in common            yes: two sites
//	elsewhere     elsewhere      private   one in common, or any of IPv6        no: perhaps the same site
//
// Sites are told apart by IPv4 only, where a site has one address for all of its machines.
//
// The certificate matters to clients that reach kubelets by address, which the API server
// does not. Given up: a node that is at the other's site and speaks by another uplink gets
// a certificate for the other's address.
func (c *Controller) mayShareAddress(node, other string, ip netip.Addr) bool {
	from, othersFrom := c.cfg.Sources(node), c.cfg.Sources(other)
	if other == c.cfg.OwnNode {
		othersFrom = []netip.Addr{ip}
	}
	otherIsThere := slices.Contains(othersFrom, ip)
	switch {
	case slices.Contains(from, ip):
		return !otherIsThere
	case !ip.IsPrivate(), len(from) == 0, len(othersFrom) == 0, slices.ContainsFunc(othersFrom, netip.Addr.Is6):
		return false
	}
	isSameSite := func(a netip.Addr) bool {
		return a.Is6() || slices.Contains(othersFrom, a) || otherIsThere && c.mayBeInside(a)
	}
	return !slices.ContainsFunc(from, isSameSite)
}

// mayBeInside reports whether a machine that speaks from a may be in this server's
// network. A machine inside comes from the router's address when it uses the server's
// outer address.
func (c *Controller) mayBeInside(a netip.Addr) bool {
	return a.IsPrivate() || slices.Contains(c.cfg.OuterIPs, a)
}

// answer writes a decision into the request, unless that is gone.
func (c *Controller) answer(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, d decision) error {
	condition := certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue,
		Reason: d.reason, Message: d.message, LastUpdateTime: metav1.NewTime(time.Now()),
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

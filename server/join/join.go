// Package join decides which machines become nodes: it approves or denies the certificate
// requests of machines that want to be nodes, of nodes that renew their certificate and of
// kubelets that want to serve, and it keeps the records that say which machine a node's
// name belongs to (see noderecord). It also removes join tokens that have ended (see
// token).
//
// Both ends are Kubernetes' own: the API server checks bootstrap tokens, upstream's
// csrsigning signs certificates and csrcleaner removes old requests. Upstream's
// csrapproving would approve a node's renewals, and requests with a token for any name,
// without regard to the node's record; so nobody is given the rights by which it does.
//
// Decisions:
//   - A name belongs to the machine that first proved itself under it (nodekey has the
//     proof). The Secret NAME.node-key.brink in kube-system is the record; it can be
//     created only once, which decides a race. So a token alone takes no name away.
//   - A certificate is worth what the node's record says: its key is in the record before
//     it is signed. Joining leaves no other key in the record.
//   - A node without a record did not join by a token; the servers' own nodes are such.
//     Its name is taken.
//   - A record lives as long as its Node, whose uid it carries as soon as the Node exists:
//     a deleted Node frees its name at once, whatever events were missed. A machine that
//     proved itself and never became a node keeps the name for a day; against another
//     machine that wants it, for unusedAfter or as long as it has a tunnel.
//   - All work comes from the shared informers through one queue to one worker: nothing
//     runs while nobody joins, and deciding never races with reconciling the records.
package join

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"brink/internal/lifecycle"
	"brink/internal/once"
	"brink/server/noderecord"
	"brink/server/token"
)

// Config is what a Controller works with.
type Config struct {
	// Client may approve for the kubelets' signers and write Secrets in kube-system.
	Client kubernetes.Interface
	// Informers are shared with others; those needed are started.
	Informers informers.SharedInformerFactory
	// OwnNode is a name that nobody may join under, even while there is no such node.
	// Empty reserves none.
	OwnNode string
	// TokenStatus is given the Secrets once the caches of Run are filled.
	TokenStatus *token.StatusHandler
	// Sources returns the addresses from which a node has tunnels to this server now.
	Sources func(node string) []netip.Addr
	// OuterIPs are addresses by which this server is reached from outside.
	OuterIPs []netip.Addr
}

// Controller watches certificate requests, Nodes and Secrets, and acts on them.
type Controller struct {
	cfg   Config
	csrs  certificateslisters.CertificateSigningRequestLister
	nodes corelisters.NodeLister
	// secrets are those of kube-system.
	secrets corelisters.SecretNamespaceLister
	queue   workqueue.TypedRateLimitingInterface[task]
	reports once.Reporter // of refusals and failures
	// firstSeen is when a request was first found too early to decide on. Only the
	// worker uses it.
	firstSeen map[string]time.Time
	synced    []cache.InformerSynced
}

// task is one item of the queue.
type task struct {
	kind taskKind
	name string // of a certificate request or of a node
	key  string // of the node's certificate, for adoptKey
	// proven is for addProven.
	proven noderecord.Proven
}

type taskKind int

const (
	decideRequest taskKind = iota
	reconcileRecords
	removeTokens
	adoptKey
	migrate
	addProven
)

const namespace = metav1.NamespaceSystem

// New prepares a controller; Run does the work.
func New(cfg Config) *Controller {
	core := cfg.Informers.Core().V1()
	return &Controller{
		cfg:     cfg,
		csrs:    cfg.Informers.Certificates().V1().CertificateSigningRequests().Lister(),
		nodes:   core.Nodes().Lister(),
		secrets: core.Secrets().Lister().Secrets(namespace),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[task](100*time.Millisecond, time.Minute)),
		reports:   once.Reporter{Every: time.Hour}, // a refused kubelet asks again twice a minute
		firstSeen: map[string]time.Time{},
	}
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) error {
	unregister, err := c.listen()
	defer unregister()
	if err != nil {
		return err
	}
	c.cfg.Informers.Start(ctx.Done()) // no effect on those that run
	if !cache.WaitForCacheSync(ctx.Done(), c.synced...) {
		return nil
	}
	c.cfg.TokenStatus.Use(c.secrets)
	c.queue.Add(task{kind: migrate})
	c.queue.Add(task{kind: reconcileRecords})
	c.queue.Add(task{kind: removeTokens})
	context.AfterFunc(ctx, c.queue.ShutDown)
	for {
		t, ended := c.queue.Get()
		if ended {
			return nil
		}
		c.work(ctx, t)
		c.queue.Done(t)
	}
}

func (c *Controller) work(ctx context.Context, t task) {
	var err error
	switch t.kind {
	case decideRequest:
		err = c.decide(ctx, t.name)
	case reconcileRecords:
		err = c.reconcileRecords(ctx)
	case removeTokens:
		err = c.removeTokens(ctx)
	case adoptKey:
		err = c.adopt(ctx, t.name, t.key)
	case migrate:
		err = c.migrate(ctx)
	case addProven:
		err = c.addProven(ctx, t.proven)
	}
	if err == nil || ctx.Err() != nil {
		c.queue.Forget(t)
		return
	}
	// A conflict means that somebody else was quicker. Everything else is worth a line,
	// such as a webhook that is out of order.
	if !apierrors.IsConflict(err) && c.reports.Changed(t.reportKey(err), "") {
		lifecycle.Logger(ctx).Warn("trying again", "request", t.name, "error", err)
	}
	c.queue.AddRateLimited(t)
}

// reportKey returns under which key an error of a task is logged once an hour. A task about
// all nodes or all tokens fails with the error of any of them, each time of another one, so
// that what counts is its kind.
func (t task) reportKey(err error) string {
	switch t.kind {
	case reconcileRecords, removeTokens, migrate:
		return fmt.Sprintf("task %d: %s", t.kind, apierrors.ReasonForError(err))
	}
	return err.Error()
}

// listen turns events into tasks.
func (c *Controller) listen() (unregister func(), _ error) {
	add := func(kind taskKind) func(any) { return func(any) { c.queue.Add(task{kind: kind}) } }
	core := c.cfg.Informers.Core().V1()
	var undo []func()
	var errs []error
	on := func(i cache.SharedIndexInformer, h cache.ResourceEventHandler) {
		r, err := i.AddEventHandlerWithOptions(h, cache.HandlerOptions{ResyncPeriod: new(time.Duration)})
		if err != nil {
			errs = append(errs, err)
			return
		}
		undo = append(undo, func() { _ = i.RemoveEventHandler(r) })
		c.synced = append(c.synced, r.HasSynced)
	}
	on(c.cfg.Informers.Certificates().V1().CertificateSigningRequests().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    c.onRequest,
		UpdateFunc: func(_, now any) { c.onRequest(now) },
	})
	on(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    add(reconcileRecords),
		DeleteFunc: add(reconcileRecords),
		// The uid differs when a Node was deleted and made again while a watch was broken.
		UpdateFunc: func(before, now any) {
			if before.(*corev1.Node).UID != now.(*corev1.Node).UID {
				c.queue.Add(task{kind: reconcileRecords})
			}
		},
	})
	on(core.Secrets().Informer(), secretsOf(noderecord.Type, add(reconcileRecords)))
	on(core.Secrets().Informer(), secretsOf(corev1.SecretTypeBootstrapToken, add(removeTokens)))
	return func() {
		for _, f := range undo {
			f()
		}
	}, errors.Join(errs...)
}

// secretsOf calls changed for each Secret of a type in kube-system that is added or
// updated.
func secretsOf(kind corev1.SecretType, changed func(any)) cache.ResourceEventHandler {
	return cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool {
			s, ok := obj.(*corev1.Secret)
			return ok && s.Type == kind && s.Namespace == namespace
		},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, now any) { changed(now) }},
	}
}

// onRequest queues requests that this package decides on.
func (c *Controller) onRequest(obj any) {
	if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok && readerOf(csr) != nil && needsWork(csr) {
		c.queue.Add(task{kind: decideRequest, name: csr.Name})
	}
}

// removeTokens removes bootstrap tokens that have ended, and looks again when the next
// one ends.
func (c *Controller) removeTokens(ctx context.Context) error {
	next, errs := token.RemoveEnded(ctx, c.cfg.Client, c.secrets, time.Now())
	if next > 0 {
		c.queue.AddAfter(task{kind: removeTokens}, next)
	}
	return firstError(errs)
}

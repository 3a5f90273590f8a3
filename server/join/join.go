// Package join lets machines into the cluster: it decides on the certificate
// requests of those that want to be nodes and of nodes that want to be called,
// keeps records of which machine a node's name belongs to, and has join tokens removed
// that have ended (see server/token).
//
// What stands on either side is Kubernetes' own. Bootstrap tokens are checked by
// the API server, certificates are signed by upstream's csrsigning, and old requests
// are removed by csrcleaner. csrapproving would approve a node's renewals, and
// requests with a token for any name, without a word to the node's record: nobody
// is given the rights by which it does.
//
// Decisions:
//   - A name belongs to the machine that first proved itself under it: see
//     nodekey for the proof. The Secret NAME.node-key.brink in kube-system is the
//     record of it; that it can be created only once decides a race. So a token
//     alone takes no name away from anybody.
//   - A certificate counts by the node's record, see noderecord: its key is in there
//     before it is signed. Joining leaves the record no other key.
//   - A node without a record did not join by a token, as the servers' own. Its
//     name is taken.
//   - A record lives as long as its node, whose uid it carries from the moment
//     the node is there: a deleted node frees its name at once, whatever was
//     missed meanwhile. A machine that proved itself and never became a node
//     keeps the name for a day, and from another machine that wants it for
//     unusedAfter, or as long as it has its tunnel.
//   - Everything here is made from the shared informers, one queue and one worker:
//     nothing runs while nobody joins. Deciding and keeping records in one
//     goroutine also means that they do not race each other.
package join

import (
	"context"
	"errors"
	"log/slog"
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

	"brink/server/noderecord"
	"brink/server/token"
)

// Config says for what cluster to work.
type Config struct {
	// Client may approve for the kubelets' signers and write Secrets in kube-system.
	Client kubernetes.Interface
	// Informers are shared with others; those needed are started.
	Informers informers.SharedInformerFactory
	// OwnNode is a name that nobody may join under, also while there is no such
	// node. Empty is none.
	OwnNode string
	// TokenStatus can answer from when Run has filled its caches.
	TokenStatus *token.StatusHandler
	// Sources are the addresses from which a node speaks to this server now.
	Sources func(node string) []netip.Addr
	// OuterIPs are addresses by which this server is reached from outside.
	OuterIPs []netip.Addr
}

// Controller is the part that runs.
type Controller struct {
	cfg   Config
	csrs  certificateslisters.CertificateSigningRequestLister
	nodes corelisters.NodeLister
	// secrets are those of kube-system.
	secrets corelisters.SecretNamespaceLister
	queue   workqueue.TypedRateLimitingInterface[task]
	said    *said
	// firstSeen is when a request was first found to need patience. Only the worker
	// uses it.
	firstSeen map[string]time.Time
	now       func() time.Time
	look      time.Duration // how often at a request that needs patience
	synced    []cache.InformerSynced
}

// task is something to look at.
type task struct {
	kind taskKind
	name string // of a certificate request, or of a node
	key  string // of its certificate
	// proven is the certificate of addProven.
	proven noderecord.Proven
}

type taskKind int

const (
	decideRequest taskKind = iota
	keepRecords
	removeTokens
	adoptKey
	takeOver
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
		said:      newSaid(),
		firstSeen: map[string]time.Time{},
		now:       time.Now,
		look:      lookInterval,
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
	c.queue.Add(task{kind: takeOver})
	c.queue.Add(task{kind: keepRecords})
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
	case keepRecords:
		err = c.keepRecords(ctx)
	case removeTokens:
		err = c.removeTokens(ctx)
	case adoptKey:
		err = c.adopt(ctx, t.name, t.key)
	case takeOver:
		err = c.takeOver(ctx)
	case addProven:
		err = c.addProven(ctx, t.proven)
	}
	if err == nil || ctx.Err() != nil {
		c.queue.Forget(t)
		return
	}
	// Somebody was quicker: look again. All else somebody has to know of, such as
	// a webhook that is out of order.
	if !apierrors.IsConflict(err) && c.said.isNew(err.Error()) {
		slog.Warn("trying again", "component", "join", "request", t.name, "error", err)
	}
	c.queue.AddRateLimited(t)
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
		AddFunc:    c.seen,
		UpdateFunc: func(_, now any) { c.seen(now) },
	})
	on(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    add(keepRecords),
		DeleteFunc: add(keepRecords),
		// A node that was deleted and made again while a watch was broken.
		UpdateFunc: func(before, now any) {
			if before.(*corev1.Node).UID != now.(*corev1.Node).UID {
				c.queue.Add(task{kind: keepRecords})
			}
		},
	})
	on(core.Secrets().Informer(), secretsOf(noderecord.Type, add(keepRecords)))
	on(core.Secrets().Informer(), secretsOf(corev1.SecretTypeBootstrapToken, add(removeTokens)))
	return func() {
		for _, f := range undo {
			f()
		}
	}, errors.Join(errs...)
}

// secretsOf calls changed for Secrets of a type in kube-system that come or
// change.
func secretsOf(kind corev1.SecretType, changed func(any)) cache.ResourceEventHandler {
	return cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool {
			s, ok := obj.(*corev1.Secret)
			return ok && s.Type == kind && s.Namespace == namespace
		},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, now any) { changed(now) }},
	}
}

func (c *Controller) seen(obj any) {
	if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok && readerOf(csr) != nil && isOpen(csr) {
		c.queue.Add(task{kind: decideRequest, name: csr.Name})
	}
}

// removeTokens removes bootstrap tokens that have ended, and looks again when the next
// one ends.
func (c *Controller) removeTokens(ctx context.Context) error {
	next, errs := token.RemoveEnded(ctx, c.cfg.Client, c.secrets, c.now())
	if next > 0 {
		c.queue.AddAfter(task{kind: removeTokens}, next)
	}
	return firstOf(errs)
}

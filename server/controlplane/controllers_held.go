package controlplane

import (
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/tools/cache"
)

// heldFactory hands out the shared informers, and holds back event handlers that are added to
// them until release.
//
// Upstream's controllers add handlers in the middle of their constructors and rely on
// informers that were not started: a handler that runs at once finds a half-built controller,
// and ends the process by a nil pointer. But the API server's informers run before any
// controller exists.
type heldFactory struct {
	informers.SharedInformerFactory

	mu       sync.Mutex
	wrapped  map[cache.SharedIndexInformer]*heldInformer
	waiting  []*heldRegistration // in the order they were added
	released bool
}

var _ internalinterfaces.SharedInformerFactory = (*heldFactory)(nil)

func newHeldFactory(shared informers.SharedInformerFactory) *heldFactory {
	return &heldFactory{SharedInformerFactory: shared, wrapped: map[cache.SharedIndexInformer]*heldInformer{}}
}

// InformerFor returns the shared informer of obj's type, wrapped.
func (f *heldFactory) InformerFor(obj runtime.Object, newFunc internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	return f.wrap(f.SharedInformerFactory.InformerFor(obj, newFunc))
}

// ForResource returns the shared informer of a resource, wrapped. Quota and garbage
// collection get their informers by it.
func (f *heldFactory) ForResource(resource schema.GroupVersionResource) (informers.GenericInformer, error) {
	generic, err := f.SharedInformerFactory.ForResource(resource)
	if err != nil {
		return nil, err
	}
	return heldGeneric{generic, f.wrap(generic.Informer())}, nil
}

type heldGeneric struct {
	informers.GenericInformer
	informer cache.SharedIndexInformer
}

func (g heldGeneric) Informer() cache.SharedIndexInformer { return g.informer }

func (f *heldFactory) wrap(inner cache.SharedIndexInformer) cache.SharedIndexInformer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wrapped[inner] == nil {
		f.wrapped[inner] = &heldInformer{SharedIndexInformer: inner, factory: f}
	}
	return f.wrapped[inner]
}

// release adds the handlers that were held back. Later handlers are added at once.
func (f *heldFactory) release() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = true
	var errs []error
	for _, r := range f.waiting {
		errs = append(errs, r.register())
	}
	f.waiting = nil
	return errors.Join(errs...)
}

type heldInformer struct {
	cache.SharedIndexInformer
	factory *heldFactory
}

func (i *heldInformer) AddEventHandler(handler cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(handler, cache.HandlerOptions{})
}

func (i *heldInformer) AddEventHandlerWithResyncPeriod(handler cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandlerWithOptions(handler, cache.HandlerOptions{ResyncPeriod: &resync})
}

func (i *heldInformer) AddEventHandlerWithOptions(handler cache.ResourceEventHandler, options cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	i.factory.mu.Lock()
	defer i.factory.mu.Unlock()
	if i.factory.released {
		return i.SharedIndexInformer.AddEventHandlerWithOptions(handler, options)
	}
	r := &heldRegistration{informer: i.SharedIndexInformer, handler: handler, options: options, synced: make(chan struct{})}
	i.factory.waiting = append(i.factory.waiting, r)
	return r, nil
}

func (i *heldInformer) RemoveEventHandler(handle cache.ResourceEventHandlerRegistration) error {
	held, ok := handle.(*heldRegistration)
	if !ok {
		return i.SharedIndexInformer.RemoveEventHandler(handle)
	}
	i.factory.mu.Lock()
	defer i.factory.mu.Unlock()
	held.removed = true
	if held.real == nil {
		return nil
	}
	return i.SharedIndexInformer.RemoveEventHandler(held.real)
}

// heldRegistration is the registration of a handler before and after it is added.
type heldRegistration struct {
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandler
	options  cache.HandlerOptions

	synced  chan struct{} // closed once the handler has seen the initial list
	real    cache.ResourceEventHandlerRegistration
	removed bool
}

func (r *heldRegistration) register() error {
	if r.removed {
		return nil
	}
	real, err := r.informer.AddEventHandlerWithOptions(r.handler, r.options)
	if err != nil {
		return err
	}
	r.real = real
	go func() {
		<-real.HasSyncedChecker().Done()
		close(r.synced)
	}()
	return nil
}

func (r *heldRegistration) HasSynced() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

func (r *heldRegistration) HasSyncedChecker() cache.DoneChecker { return r }

// Name and Done make the registration its own checker.
func (r *heldRegistration) Name() string          { return "handler of a shared informer" }
func (r *heldRegistration) Done() <-chan struct{} { return r.synced }

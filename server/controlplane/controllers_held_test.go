package controlplane

import (
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"brink/internal/testwait"
)

const patience = 20 * time.Second

func namedNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// seen is an event handler that keeps the names of what was added.
type seen struct {
	mu    sync.Mutex
	names []string
}

func (s *seen) OnAdd(obj any, _ bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, obj.(metav1.Object).GetName())
}
func (s *seen) OnUpdate(any, any) {}
func (s *seen) OnDelete(any)      {}

func (s *seen) is(names ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Equal(slices.Sorted(slices.Values(s.names)), names)
}

// runningFactory is the API server's factory as the controllers meet it: its
// informers of nodes run and are filled.
func runningFactory(t *testing.T, client *fake.Clientset) informers.SharedInformerFactory {
	t.Helper()
	shared := informers.NewSharedInformerFactory(client, 0)
	nodes := shared.Core().V1().Nodes().Informer()
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); shared.Shutdown() })
	shared.Start(stop)
	testwait.Until(t, "the informer is filled", nodes.HasSynced)
	return shared
}

func addTo(t *testing.T, i cache.SharedIndexInformer, h cache.ResourceEventHandler) cache.ResourceEventHandlerRegistration {
	t.Helper()
	r, err := i.AddEventHandler(h)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHandlersAreHeldUntilRelease(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(namedNode("one"), namedNode("two"))
	held := newHeldFactory(runningFactory(t, client))
	nodes := held.Core().V1().Nodes()
	generic, err := held.ForResource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"})
	if err != nil {
		t.Fatal(err)
	}

	handlers := map[string]*seen{"plain": {}, "resync": {}, "options": {}, "generic": {}}
	registrations := map[string]cache.ResourceEventHandlerRegistration{}
	registrations["plain"] = addTo(t, nodes.Informer(), handlers["plain"])
	registrations["generic"] = addTo(t, generic.Informer(), handlers["generic"])
	if registrations["resync"], err = nodes.Informer().AddEventHandlerWithResyncPeriod(handlers["resync"], 0); err != nil {
		t.Fatal(err)
	}
	if registrations["options"], err = nodes.Informer().AddEventHandlerWithOptions(handlers["options"], cache.HandlerOptions{}); err != nil {
		t.Fatal(err)
	}

	time.Sleep(50 * time.Millisecond) // a handler that is not held runs within microseconds
	for name, h := range handlers {
		if !h.is() || registrations[name].HasSynced() {
			t.Errorf("%s: has run before the release", name)
		}
	}
	if list, err := nodes.Lister().List(everything); err != nil || len(list) != 2 {
		t.Errorf("the lister has %d nodes (%v) before the release, want 2: only handlers are held", len(list), err)
	}
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	for name, h := range handlers {
		testwait.Until(t, name+" has seen both nodes", func() bool { return h.is("one", "two") })
		testwait.Until(t, name+" is synced", registrations[name].HasSynced)
	}
}

func TestHandlerAddedAfterRelease(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(namedNode("one"))
	held := newHeldFactory(runningFactory(t, client))
	informer := held.Core().V1().Nodes().Informer() // taken before, used after
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	h := &seen{}
	r := addTo(t, informer, h)
	testwait.Until(t, "a late handler sees the node", func() bool { return h.is("one") })
	testwait.Until(t, "a late handler is synced", r.HasSynced)
	if err := informer.RemoveEventHandler(r); err != nil {
		t.Errorf("removing a late handler: %v", err)
	}
}

// TestSyncedAfterInitialList: a handler counts as synced when it has seen all
// that was there, not when it was added.
func TestSyncedAfterInitialList(t *testing.T) {
	t.Parallel()
	held := newHeldFactory(runningFactory(t, fake.NewClientset(namedNode("one"))))
	proceed := make(chan struct{})
	slow := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { <-proceed }}
	r := addTo(t, held.Core().V1().Nodes().Informer(), slow)
	checker := r.HasSyncedChecker()
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-checker.Done():
		t.Error("synced while the handler is busy with the first object")
	case <-time.After(50 * time.Millisecond):
	}
	close(proceed)
	select {
	case <-checker.Done():
	case <-time.After(patience):
		t.Error("not synced after the handler has seen everything")
	}
	if !r.HasSynced() || checker.Name() == "" {
		t.Errorf("HasSynced is %t, the checker's name is %q", r.HasSynced(), checker.Name())
	}
}

func TestRemoveBeforeRelease(t *testing.T) {
	t.Parallel()
	held := newHeldFactory(runningFactory(t, fake.NewClientset(namedNode("one"))))
	informer := held.Core().V1().Nodes().Informer()
	removed, kept := &seen{}, &seen{}
	r := addTo(t, informer, removed)
	addTo(t, informer, kept)
	if err := informer.RemoveEventHandler(r); err != nil {
		t.Fatal(err)
	}
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the handler that stayed sees the node", func() bool { return kept.is("one") })
	time.Sleep(50 * time.Millisecond)
	if !removed.is() {
		t.Error("a handler that was removed before the release has run")
	}
}

func TestRemoveAfterRelease(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(namedNode("one"))
	held := newHeldFactory(runningFactory(t, client))
	informer := held.Core().V1().Nodes().Informer()
	removed, kept := &seen{}, &seen{}
	r := addTo(t, informer, removed)
	addTo(t, informer, kept)
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "both see the node", func() bool { return removed.is("one") && kept.is("one") })
	if err := informer.RemoveEventHandler(r); err != nil {
		t.Fatal(err)
	}
	if err := client.Tracker().Add(namedNode("two")); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the handler that stayed sees the second node", func() bool { return kept.is("one", "two") })
	time.Sleep(50 * time.Millisecond)
	if !removed.is("one") {
		t.Error("a removed handler still runs")
	}
}

// TestReleaseKeepsOrder watches in which order handlers reach the informers.
func TestReleaseKeepsOrder(t *testing.T) {
	t.Parallel()
	log := &additions{}
	held := newHeldFactory(loggingFactory{informers.NewSharedInformerFactory(fake.NewClientset(), 0), log})
	nodes, pods := held.Core().V1().Nodes().Informer(), held.Core().V1().Pods().Informer()
	var want []cache.ResourceEventHandler
	for i := range 10 {
		h := &seen{names: []string{string(rune('a' + i))}}
		want = append(want, h)
		addTo(t, []cache.SharedIndexInformer{nodes, pods}[i%2], h)
	}
	if len(log.handlers) != 0 {
		t.Errorf("%d handlers were added before the release", len(log.handlers))
	}
	if err := held.release(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(log.handlers, want) {
		t.Error("handlers were not added in the order in which they came")
	}
}

// loggingFactory notes the handlers that are added to its informers.
type loggingFactory struct {
	informers.SharedInformerFactory
	log *additions
}

type additions struct{ handlers []cache.ResourceEventHandler }

func (f loggingFactory) InformerFor(obj runtime.Object, newFunc internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	return loggingInformer{f.SharedInformerFactory.InformerFor(obj, newFunc), f.log}
}

type loggingInformer struct {
	cache.SharedIndexInformer
	log *additions
}

func (i loggingInformer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, o cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	i.log.handlers = append(i.log.handlers, h)
	return i.SharedIndexInformer.AddEventHandlerWithOptions(h, o)
}

// TestHeldFactoryCoversAllGroups walks every API group, version and resource of
// client-go's factory: an informer that does not come wrapped would run a
// half-built controller's handlers.
func TestHeldFactoryCoversAllGroups(t *testing.T) {
	t.Parallel()
	held := newHeldFactory(informers.NewSharedInformerFactory(fake.NewClientset(), 0))
	groups := 0
	forAll(reflect.TypeFor[informers.SharedInformerFactory](), reflect.ValueOf(held), func(group string, g reflect.Value) {
		groups++
		forAll(g.Type(), g, func(version string, v reflect.Value) {
			forAll(v.Type(), v, func(resource string, r reflect.Value) {
				informer := r.MethodByName("Informer").Call(nil)[0].Interface()
				if _, ok := informer.(*heldInformer); !ok {
					t.Errorf("%s().%s().%s().Informer() leads past the heldFactory: add %s to heldgroups.go", group, version, resource, group)
				}
			})
		})
	})
	if groups < 20 {
		t.Errorf("only %d groups were found, does upstream's interface still look as it did?", groups)
	}
}

// forAll calls every method of typ on v that leads deeper into client-go's
// informers: no arguments, one result, an interface of those packages.
func forAll(typ reflect.Type, v reflect.Value, visit func(name string, result reflect.Value)) {
	for i := range typ.NumMethod() {
		m := typ.Method(i)
		f := v.MethodByName(m.Name)
		if f.Type().NumIn() != 0 || f.Type().NumOut() != 1 {
			continue
		}
		out := f.Type().Out(0)
		if out.Kind() == reflect.Interface && strings.HasPrefix(out.PkgPath(), "k8s.io/client-go/informers/") {
			// Elem is what the interface holds.
			visit(m.Name, f.Call(nil)[0].Elem())
		}
	}
}

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/rangeallocation"
	"k8s.io/kubernetes/pkg/registry/core/service/allocator"
	serviceallocator "k8s.io/kubernetes/pkg/registry/core/service/allocator/storage"
	ipallocatorcontroller "k8s.io/kubernetes/pkg/registry/core/service/ipallocator/controller"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	portallocatorcontroller "k8s.io/kubernetes/pkg/registry/core/service/portallocator/controller"
	rbac "k8s.io/kubernetes/pkg/registry/rbac/rest"
	scheduling "k8s.io/kubernetes/pkg/registry/scheduling/rest"

	"brink/internal/sleep"
)

// A post-start hook is what the API server does once after its start. Upstream's server ends
// itself when a hook has not succeeded within 30 s or a minute, and so would end this process
// when a database elsewhere goes away for that long in the first minute. Here such a hook is
// repeated if the database was away meanwhile. A failure for any other reason still ends the
// server.

// repairHook is the hook that compares the allocated addresses and ports with the Services,
// and corrects them.
const repairHook = "start-service-ip-repair-controllers"

const (
	// storeCheckEvery is how often the database is asked while a hook runs.
	storeCheckEvery = time.Second
	// repairLimit is how long a first repair may take while the database answers.
	repairLimit = time.Minute
	// repairRetry is how soon a first repair that failed is tried again.
	repairRetry = 5 * time.Second
)

// hooks makes upstream's hooks wait for a database that is away.
type hooks struct {
	answers func(context.Context) bool // whether the database answers
	repair  repair
}

// makeHooksPatient changes the hooks of server, the outermost one, which runs those of
// the others.
func (a *apiServer) makeHooksPatient(server *genericapiserver.GenericAPIServer, generic *genericConfig, ports utilnet.PortRange, interval time.Duration) error {
	config := a.cp.ClientConfig(user.APIServerUser, user.SystemPrivilegedGroup)
	client, err := kubernetes.NewForConfig(generic.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("building a client for hooks: %w", err)
	}
	a.hooks = &hooks{
		answers: storeAnswers(config),
		repair:  repair{client: client, informers: generic.informers, storage: generic, ports: ports, interval: interval},
	}
	for name, wrap := range map[string]func(genericapiserver.PostStartHookFunc) genericapiserver.PostStartHookFunc{
		rbac.PostStartHookName:       a.hooks.repeatAfterOutage,
		scheduling.PostStartHookName: a.hooks.repeatAfterOutage,
		repairHook:                   a.hooks.repairAfterOutage,
	} {
		if generic.DisabledPostStartHooks.Has(name) {
			continue
		}
		if err := wrapHook(server, name, wrap); err != nil {
			return err
		}
	}
	return nil
}

// wrapHook replaces a hook that is registered already. Upstream has no other way: a
// hook of the same name is refused, and one of another name is not in the health
// checks that Kubernetes' own suite asks for.
func wrapHook(server *genericapiserver.GenericAPIServer, name string, wrap func(genericapiserver.PostStartHookFunc) genericapiserver.PostStartHookFunc) error {
	all := server.PostStartHooks()
	entry, ok := all[name]
	if !ok {
		return fmt.Errorf("upstream has no hook %q any more", name)
	}
	field := reflect.ValueOf(&entry).Elem().FieldByName("hook")
	if !field.IsValid() || field.Type() != reflect.TypeFor[genericapiserver.PostStartHookFunc]() {
		return fmt.Errorf("upstream's entry for the hook %q is not made as it was", name)
	}
	hook := (*genericapiserver.PostStartHookFunc)(unsafe.Pointer(field.UnsafeAddr()))
	*hook = wrap(*hook)
	all[name] = entry
	return nil
}

// storeAnswers asks by the API server's own health check.
func storeAnswers(config *rest.Config) func(context.Context) bool {
	client, err := rest.HTTPClientFor(config)
	return func(ctx context.Context) bool {
		if err != nil {
			return false
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/livez/etcd", nil)
		if err != nil {
			return false
		}
		resp, err := client.Do(req)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
}

// repeatAfterOutage runs a hook until it succeeds, or until it fails although the database
// was there.
func (h *hooks) repeatAfterOutage(hook genericapiserver.PostStartHookFunc) genericapiserver.PostStartHookFunc {
	return func(ctx genericapiserver.PostStartHookContext) error {
		for {
			err, wasAway := h.watched(ctx, hook)
			switch {
			case err == nil || ctx.Err() != nil:
				return nil
			case !wasAway:
				return err
			}
			klog.InfoS("The database was away after the start, trying once more", "err", err)
			h.wait(ctx)
		}
	}
}

// repairAfterOutage runs upstream's repair. If that fails and the database was away meanwhile,
// it runs one of ours instead: upstream's cannot be started twice.
func (h *hooks) repairAfterOutage(hook genericapiserver.PostStartHookFunc) genericapiserver.PostStartHookFunc {
	return func(ctx genericapiserver.PostStartHookContext) error {
		first, end := context.WithCancel(ctx.Context)
		context.AfterFunc(ctx.Context, end)
		err, wasAway := h.watched(genericapiserver.PostStartHookContext{LoopbackClientConfig: ctx.LoopbackClientConfig, Context: first}, hook)
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case !wasAway:
			return err
		}
		end()
		klog.InfoS("The database was away after the start, comparing addresses and ports of services once more", "err", err)
		addresses, ports, err := h.repair.controllers()
		if err != nil {
			return err
		}
		return h.run(ctx, addresses, ports)
	}
}

// wait returns true once the database answers, false when ctx is done before.
func (h *hooks) wait(ctx context.Context) bool {
	for ctx.Err() == nil && !h.answers(ctx) {
		sleep.For(ctx, storeCheckEvery)
	}
	return ctx.Err() == nil
}

// watched runs a hook and also returns whether the database was away meanwhile.
func (h *hooks) watched(ctx genericapiserver.PostStartHookContext, hook genericapiserver.PostStartHookFunc) (err error, wasAway bool) {
	var away atomic.Bool
	watching, end := context.WithCancel(ctx.Context)
	var watch sync.WaitGroup
	watch.Go(func() {
		for sleep.For(watching, storeCheckEvery) {
			if !h.answers(watching) && watching.Err() == nil {
				away.Store(true)
			}
		}
	})
	err = hook(ctx)
	end()
	watch.Wait()
	return err, away.Load()
}

// firstRepair is upstream's way to run a repair: done is called after the first that
// succeeds. It returns when stop is closed, or when it gives up.
type firstRepair func(done func(), stop chan struct{})

// run returns when both repairs have succeeded for the first time, and leaves them
// running until ctx is done. Time without a database does not count.
func (h *hooks) run(ctx context.Context, repairs ...firstRepair) error {
	stop, succeeded := make(chan struct{}), make(chan struct{}, len(repairs))
	context.AfterFunc(ctx, func() { close(stop) })
	for _, repair := range repairs {
		done := sync.OnceFunc(func() { succeeded <- struct{}{} })
		go func() {
			for h.wait(ctx) {
				repair(done, stop)
				sleep.For(ctx, repairRetry)
			}
		}()
	}
	missing := len(repairs)
	for answered := time.Duration(0); missing > 0 && ctx.Err() == nil; {
		select {
		case <-succeeded:
			missing--
		case <-ctx.Done():
		case <-time.After(storeCheckEvery):
			if h.answers(ctx) {
				answered += storeCheckEvery
			}
			if answered >= repairLimit {
				return errors.New("unable to perform initial IP and Port allocation check")
			}
		}
	}
	return nil
}

// repair is what upstream's repair is made of.
type repair struct {
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	storage   *genericConfig
	ports     utilnet.PortRange
	interval  time.Duration
}

// controllers returns the two repairs. What is allocated is read from the store each
// time, as by a second API server.
func (r repair) controllers() (addresses, ports firstRepair, err error) {
	stored, err := r.storedPorts()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the allocated node ports: %w", err)
	}
	addresses = func(done func(), stop chan struct{}) {
		networking := r.informers.Networking().V1()
		ipallocatorcontroller.NewRepairIPAddress(r.interval, r.client, r.informers.Core().V1().Services(),
			networking.ServiceCIDRs(), networking.IPAddresses()).RunUntil(done, stop)
	}
	ports = func(done func(), stop chan struct{}) {
		r.repairPorts(repairRetry, done, stop, stored) // until it succeeds
		select {
		case <-stop:
		case <-time.After(r.interval):
			portallocatorcontroller.NewRepair(r.interval, r.client.CoreV1(), r.client.EventsV1(), r.ports, stored).RunUntil(func() {}, stop)
		}
	}
	return addresses, ports, nil
}

// repairPorts tries at short intervals and ends with the first success: upstream's
// interval of minutes is for what was right once.
func (r repair) repairPorts(interval time.Duration, done func(), stop chan struct{}, stored rangeallocation.RangeRegistry) {
	succeeded := make(chan struct{})
	end := sync.OnceFunc(func() { close(succeeded) })
	go func() {
		<-stop
		end()
	}()
	portallocatorcontroller.NewRepair(interval, r.client.CoreV1(), r.client.EventsV1(), r.ports, stored).RunUntil(func() {
		done()
		end()
	}, succeeded)
}

// storedPorts is the record of node ports in the store.
func (r repair) storedPorts() (stored *serviceallocator.Etcd, err error) {
	config, err := r.storage.storage.NewConfig(api.Resource("services"), &api.Service{})
	if err != nil {
		return nil, err
	}
	_, err = portallocator.New(r.ports, func(size int, name string, offset int) (allocator.Interface, error) {
		memory := allocator.NewAllocationMapWithOffset(size, name, offset)
		stored, err = serviceallocator.NewEtcd(memory, "/ranges/servicenodeports", config.ForResource(api.Resource("servicenodeportallocations")))
		return stored, err
	})
	return stored, err
}

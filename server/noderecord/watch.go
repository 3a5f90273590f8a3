package noderecord

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// Watch has the gate judge by these informers, which somebody else starts, and lets nodes
// in once they are complete. It must be called once.
func (g *Gate) Watch(ctx context.Context, shared informers.SharedInformerFactory) error {
	core, rbac := shared.Core().V1(), shared.Rbac().V1()
	g.nodes, g.secrets = core.Nodes().Lister(), core.Secrets().Lister().Secrets(Namespace)
	g.bindings = rbac.ClusterRoleBindings().Lister()
	nodes, err := core.Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { g.recheck(object, "") },
		UpdateFunc: func(was, is any) {
			if was.(*corev1.Node).UID != is.(*corev1.Node).UID {
				g.recheck(is, "")
			}
		},
		DeleteFunc: func(object any) { g.recheck(object, "") },
	})
	if err != nil {
		return err
	}
	records := func(object any) { g.recheck(object, Suffix) }
	secrets, err := core.Secrets().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: records, UpdateFunc: func(_, is any) { records(is) }, DeleteFunc: records,
	})
	if err != nil {
		return err
	}
	// The gate itself does not read roles. But a node that is let in before the authorizer
	// has read them is refused.
	synced := []cache.InformerSynced{
		nodes.HasSynced, secrets.HasSynced,
		rbac.ClusterRoles().Informer().HasSynced, rbac.ClusterRoleBindings().Informer().HasSynced,
		rbac.Roles().Informer().HasSynced, rbac.RoleBindings().Informer().HasSynced,
	}
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), synced...) {
			close(g.ready)
		}
	}()
	return nil
}

// recheck cancels the running requests of a node that has lost its rights. The object is
// the Node, or its record, whose name ends in suffix.
func (g *Gate) recheck(object any, suffix string) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	node, isRecord := strings.CutSuffix(name, suffix)
	if err != nil || !isRecord || suffix != "" && namespace != Namespace {
		return
	}
	for _, request := range g.running(node) {
		if _, refused := g.judge(request); refused != "" {
			request.end(errRightsEnded)
		}
	}
}

// running returns the authenticated requests of a node.
func (g *Gate) running(node string) []*nodeRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*nodeRequest
	for request := range g.requests[node] {
		if request.isVerified.Load() {
			out = append(out, request)
		}
	}
	return out
}

package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"brink/internal/lifecycle"
	"brink/internal/once"
	"brink/internal/wire/nodestatus"
	"brink/network"
)

// followPeers keeps the network's peers those of the cluster's other nodes until ctx ends.
func (n *connected) followPeers(ctx context.Context, client kubernetes.Interface, pods *network.Network) {
	source := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.Everything())
	var nodes cache.Store
	var informer cache.Controller
	peers := peerList{own: n.cfg.NodeName, log: lifecycle.Logger(ctx)}
	update := func() {
		if informer.HasSynced() { // before that the list may lack peers that are set
			peers.pass(nodes.List, pods.SetPeers)
		}
	}
	nodes, informer = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source,
		ObjectType:    &corev1.Node{},
		Transform:     trimNode,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { update() },
			DeleteFunc: func(any) { update() },
			UpdateFunc: func(was, is any) {
				if !samePeer(was, is) { // most updates are heartbeats
					update()
				}
			},
		},
	})
	var first sync.WaitGroup
	first.Go(func() {
		if cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			update()
		}
	})
	informer.RunWithContext(ctx)
	first.Wait()
}

// trimNode keeps the fields of a Node that make a peer. A Node is 10 KB, and each of
// a thousand nodes may hold a thousand in memory.
func trimNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:            node.Name,
			ResourceVersion: node.ResourceVersion,
			Annotations:     map[string]string{backendAnnotation: node.Annotations[backendAnnotation]},
		},
		Spec:   corev1.NodeSpec{PodCIDRs: node.Spec.PodCIDRs},
		Status: corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}

func samePeer(was, is any) bool {
	a, okA := was.(*corev1.Node)
	b, okB := is.(*corev1.Node)
	return okA && okB && reflect.DeepEqual(a.Annotations, b.Annotations) &&
		slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) && slices.Equal(a.Status.Addresses, b.Status.Addresses)
}

// peerList makes peers of Nodes.
type peerList struct {
	own    string // the name of this node
	log    *slog.Logger
	logged once.Reporter // of invalid addresses, by node

	mu sync.Mutex // held from asking for the Nodes to passing them on
}

// pass passes on the peers among the Nodes that list returns. Of two calls at the same
// time the later one passes on the later Nodes.
func (l *peerList) pass(list func() []any, set func([]network.Peer)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	set(l.peers(list()))
}

// peers returns all nodes but the own one as peers, in a fixed order. A node without
// a range or an address is not reachable yet.
func (l *peerList) peers(nodes []any) []network.Peer {
	var out []network.Peer
	for _, object := range nodes {
		node, ok := object.(*corev1.Node)
		if !ok || node.Name == l.own {
			continue
		}
		peer := network.Peer{Name: node.Name, Underlay: l.internalIPs(node)}
		ranges, err := parsePrefixes(node.Spec.PodCIDRs)
		if err == nil {
			peer.CIDRs = ranges
		}
		if backend := node.Annotations[backendAnnotation]; backend != "" {
			// That of a newer node may be unknown here. It then counts as none.
			peer.Backend, _ = network.ParseBackend(backend)
		}
		if len(peer.CIDRs) > 0 && len(peer.Underlay) > 0 {
			out = append(out, peer)
		}
	}
	slices.SortFunc(out, func(a, b network.Peer) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// internalIPs returns the addresses by which other nodes reach a node. It logs once what is
// none: the whole list is read again at each change of any Node.
func (l *peerList) internalIPs(node *corev1.Node) []netip.Addr {
	ips, invalid := nodestatus.Parse(node, corev1.NodeInternalIP)
	if text := strings.Join(invalid, ", "); text == "" {
		l.logged.Cleared(node.Name)
	} else if l.logged.Changed(node.Name, text) {
		l.log.Warn("a node has an address that is not an IP address", "node", node.Name, "address", text)
	}
	return ips
}

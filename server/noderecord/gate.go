package noderecord

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	corelisters "k8s.io/client-go/listers/core/v1"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"

	"brink/internal/wire/noderights"
	"brink/internal/wire/nodeuser"
)

const (
	// backdate is upstream's of certificates, and a minute for clocks that are set.
	backdate = 6 * time.Minute
	// readyPatience is how long a node's request waits for the caches. An agent
	// waits longer for an answer.
	readyPatience = 8 * time.Second
)

// errEnded is why a request of a node ends whose rights have.
var errEnded = errors.New("the node's record has ended")

// Gate believes certificates of nodes as far as their records go.
type Gate struct {
	// ownNode is the node in this process. It has no record, and no certificate.
	ownNode  string
	ready    chan struct{} // closed when the caches are complete
	secrets  corelisters.SecretNamespaceLister
	nodes    corelisters.NodeLister
	bindings rbaclisters.ClusterRoleBindingLister

	mu      sync.Mutex
	asking  map[string]map[*asking]struct{} // requests that run, by node
	adopted map[string]adoption             // by node, until the record says so
	adopt   func(node, key string)          // nil before AdoptBy
	proven  func(Proven)                    // nil before ProvenBy
}

// adoption is a key that was taken for a node's own.
type adoption struct{ of, key string }

// New returns a gate that lets no node in before Watch.
func New(ownNode string) *Gate {
	return &Gate{
		ownNode: ownNode, ready: make(chan struct{}),
		asking: map[string]map[*asking]struct{}{}, adopted: map[string]adoption{},
	}
}

// asking is a request by a certificate of a node.
type asking struct {
	isVerified atomic.Bool // by the API server: before, anyone can have made it
	node       string
	key        string
	cert       *x509.Certificate
	proof      string // that it is its machine's, "" without
	from       netip.Addr
	answer     http.Header
	end        context.CancelCauseFunc
}

type askingKey struct{}

// From is the address from which a node's request in ctx comes; invalid for all
// others.
func From(ctx context.Context) netip.Addr {
	if a, ok := ctx.Value(askingKey{}).(*asking); ok {
		return a.from
	}
	return netip.Addr{}
}

// Handler stands before the API server's whole handler chain: it holds requests of
// nodes until the gate can judge, and ends them when their rights do.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := g.newAsking(w, r)
		if a == nil {
			next.ServeHTTP(w, r)
			return
		}
		if !g.awaitReady(r.Context()) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "this server is starting", http.StatusServiceUnavailable)
			return
		}
		ctx, end := context.WithCancelCause(r.Context())
		defer end(nil)
		a.end = end
		g.begin(a)
		defer g.done(a)
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, askingKey{}, a)))
	})
}

// newAsking is nil for a request without a certificate of a node.
func (g *Gate) newAsking(w http.ResponseWriter, r *http.Request) *asking {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	cert := r.TLS.PeerCertificates[0]
	node, isNode := nodeuser.Node(cert.Subject.CommonName)
	if !isNode {
		return nil
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr)
	proof := r.Header.Get(noderights.Proof)
	r.Header.Del(noderights.Proof) // what comes after may pass headers on
	return &asking{
		node: node, key: KeyOf(cert.RawSubjectPublicKeyInfo), cert: cert, proof: proof,
		from: from.Addr().Unmap(), answer: w.Header(),
	}
}

func (g *Gate) awaitReady(ctx context.Context) bool {
	select {
	case <-g.ready:
		return true
	default:
	}
	select {
	case <-g.ready:
		return true
	case <-ctx.Done():
	case <-time.After(readyPatience):
	}
	return false
}

func (g *Gate) begin(a *asking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.asking[a.node] == nil {
		g.asking[a.node] = map[*asking]struct{}{}
	}
	g.asking[a.node][a] = struct{}{}
}

func (g *Gate) done(a *asking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.asking[a.node], a)
	if len(g.asking[a.node]) == 0 {
		delete(g.asking, a.node)
	}
}

// Authenticator refuses whom next takes for a node by a certificate without a
// record in force, and adds to all others by which record they spoke.
func (g *Gate) Authenticator(next authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		resp, ok, err := next.AuthenticateRequest(req)
		a, isAsking := req.Context().Value(askingKey{}).(*asking)
		if err != nil || !ok || !isAsking || resp.User.GetName() != nodeuser.Name(a.node) {
			return resp, ok, err
		}
		a.isVerified.Store(true)
		record, refused := g.judge(a)
		if refused != "" {
			a.answer.Set(noderights.Header, refused)
			return nil, false, nil // an error would be a line in the log each time
		}
		return withRecord(resp, record, a.key), true, nil
	})
}

func withRecord(resp *authenticator.Response, record, key string) *authenticator.Response {
	u := &user.DefaultInfo{Name: resp.User.GetName(), UID: resp.User.GetUID(), Groups: resp.User.GetGroups(), Extra: maps.Clone(resp.User.GetExtra())}
	if u.Extra == nil {
		u.Extra = map[string][]string{}
	}
	u.Extra[ExtraRecord], u.Extra[ExtraKey] = []string{record}, []string{key}
	return &authenticator.Response{Audiences: resp.Audiences, User: u}
}

// judge returns the uid of the record by which a certificate counts, or why it does
// not.
func (g *Gate) judge(a *asking) (record, refused string) {
	node, err := g.nodes.Get(a.node)
	if err != nil {
		node = nil
	}
	has, err := g.secrets.Get(a.node + Suffix)
	switch {
	case err != nil:
		return "", g.judgeWithoutRecord(a, node)
	case has.Type != Type || !InForce(has, node):
		return "", noderights.Deleted
	case HasKey(has, a.key):
		return string(has.UID), ""
	case g.isProven(a, has, node):
		return string(has.UID), ""
	case (!HasKeys(has) || g.isOld()) && isNotOlder(a.cert.NotBefore, has) && g.adopts(a, string(has.UID)):
		return string(has.UID), ""
	}
	return "", noderights.Replaced
}

// judgeWithoutRecord: only in a cluster of an older brink is there a node without a
// record that has a certificate.
func (g *Gate) judgeWithoutRecord(a *asking, node *corev1.Node) (refused string) {
	if node == nil || a.node == g.ownNode || !g.isOld() {
		return noderights.Deleted
	}
	if !g.adopts(a, string(node.UID)) {
		return noderights.Replaced
	}
	return ""
}

// isOld tells that an older brink has run, and that its records are not complete yet.
func (g *Gate) isOld() bool {
	_, err := g.bindings.Get(OldRenewals)
	return err == nil
}

// adopts takes the first key that is shown for the one of a record, or of a Node
// without one.
func (g *Gate) adopts(a *asking, of string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	had, isKnown := g.adopted[a.node]
	if !isKnown || had.of != of {
		had = adoption{of, a.key}
		g.adopted[a.node] = had
		if g.adopt != nil {
			g.adopt(a.node, a.key)
		}
	}
	return had.key == a.key
}

// AdoptBy has adopt called for each node whose record has no keys, or that has none,
// and the key that was taken for its own. It must not wait.
func (g *Gate) AdoptBy(adopt func(node, key string)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.adopt = adopt
	for node, has := range g.adopted {
		adopt(node, has.key)
	}
}

// HasRecord tells that a node's certificates count by a record, so that it is an
// agent of brink: it is reached by its tunnel, whose other end has such a
// certificate. Until it is known it is true.
func (g *Gate) HasRecord(node string) bool {
	select {
	case <-g.ready:
	default:
		return node != g.ownNode
	}
	_, err := g.secrets.Get(node + Suffix)
	return err == nil
}

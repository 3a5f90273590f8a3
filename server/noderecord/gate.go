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
	// backdate is by how much upstream backdates certificates, plus a minute for clocks
	// that are being set.
	backdate = 6 * time.Minute
	// readyPatience is how long a node's request waits for the caches. Agents wait longer
	// than that for an answer.
	readyPatience = 8 * time.Second
)

// errRightsEnded is the cause with which requests of a node are cancelled.
var errRightsEnded = errors.New("the node's record has ended")

// Gate accepts certificates of nodes as far as the nodes' records say.
type Gate struct {
	// ownNode is the node in this process. It has neither a record nor a certificate.
	ownNode  string
	ready    chan struct{} // closed when the caches are complete
	secrets  corelisters.SecretNamespaceLister
	nodes    corelisters.NodeLister
	bindings rbaclisters.ClusterRoleBindingLister

	mu       sync.Mutex
	requests map[string]map[*nodeRequest]struct{} // running requests, by node
	adopted  map[string]adoption                  // by node, until the record has the key
	adopt    func(node, key string)               // nil before AdoptBy
	proven   func(Proven)                         // nil before ProvenBy
}

// adoption is a key that was taken for a node's own, of the record or Node with a uid.
type adoption struct{ of, key string }

// New returns a gate that lets no node in before Watch.
func New(ownNode string) *Gate {
	return &Gate{
		ownNode: ownNode, ready: make(chan struct{}),
		requests: map[string]map[*nodeRequest]struct{}{}, adopted: map[string]adoption{},
	}
}

// nodeRequest is a request with a certificate of a node.
type nodeRequest struct {
	isVerified atomic.Bool // by the API server; before that, anyone can have made the certificate
	node       string
	key        string
	cert       *x509.Certificate
	proof      string // that the certificate is the machine's, "" without one
	from       netip.Addr
	answer     http.Header
	end        context.CancelCauseFunc
}

type requestKey struct{}

// From returns the address from which the node's request with this context comes. It is
// invalid for all other requests.
func From(ctx context.Context) netip.Addr {
	if request, ok := ctx.Value(requestKey{}).(*nodeRequest); ok {
		return request.from
	}
	return netip.Addr{}
}

// Handler stands before the API server's whole handler chain: it holds requests of nodes
// until the gate can judge them, and cancels them when the node loses its rights.
func (g *Gate) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := g.newNodeRequest(w, r)
		if request == nil {
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
		request.end = end
		g.track(request)
		defer g.untrack(request)
		next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, requestKey{}, request)))
	})
}

// newNodeRequest returns nil for a request without a certificate of a node.
func (g *Gate) newNodeRequest(w http.ResponseWriter, r *http.Request) *nodeRequest {
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
	r.Header.Del(noderights.Proof) // later handlers may pass headers on
	return &nodeRequest{
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

func (g *Gate) track(request *nodeRequest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.requests[request.node] == nil {
		g.requests[request.node] = map[*nodeRequest]struct{}{}
	}
	g.requests[request.node][request] = struct{}{}
}

func (g *Gate) untrack(request *nodeRequest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.requests[request.node], request)
	if len(g.requests[request.node]) == 0 {
		delete(g.requests, request.node)
	}
}

// Authenticator refuses a user that next takes for a node by a certificate, if no record
// gives that certificate rights. To all other nodes it adds the record and the key by which
// they have theirs.
func (g *Gate) Authenticator(next authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		resp, ok, err := next.AuthenticateRequest(req)
		request, isNode := req.Context().Value(requestKey{}).(*nodeRequest)
		if err != nil || !ok || !isNode || resp.User.GetName() != nodeuser.Name(request.node) {
			return resp, ok, err
		}
		request.isVerified.Store(true)
		record, refused := g.judge(request)
		if refused != "" {
			request.answer.Set(noderights.Header, refused)
			return nil, false, nil // an error would be a line in the log each time
		}
		return withRecord(resp, record, request.key), true, nil
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

// judge returns the uid of the record by which a certificate has its rights, or why it has
// none.
func (g *Gate) judge(request *nodeRequest) (record, refused string) {
	node, err := g.nodes.Get(request.node)
	if err != nil {
		node = nil
	}
	has, err := g.secrets.Get(request.node + Suffix)
	switch {
	case err != nil:
		return "", g.judgeWithoutRecord(request, node)
	case has.Type != Type || !InForce(has, node):
		return "", noderights.Deleted
	case HasKey(has, request.key):
		return string(has.UID), ""
	case g.isProven(request, has, node):
		return string(has.UID), ""
	case (!HasKeys(has) || g.isOld()) && isNotOlder(request.cert.NotBefore, has) && g.adopts(request, string(has.UID)):
		return string(has.UID), ""
	}
	return "", noderights.Replaced
}

// judgeWithoutRecord accepts a certificate only in a cluster of an older brink, where nodes
// without a record have certificates.
func (g *Gate) judgeWithoutRecord(request *nodeRequest, node *corev1.Node) (refused string) {
	if node == nil || request.node == g.ownNode || !g.isOld() {
		return noderights.Deleted
	}
	if !g.adopts(request, string(node.UID)) {
		return noderights.Replaced
	}
	return ""
}

// isOld reports whether an older brink has run and its records are not migrated yet.
func (g *Gate) isOld() bool {
	_, err := g.bindings.Get(OldRenewals)
	return err == nil
}

// adopts takes the first key that a node shows for its own, and reports whether that is the
// request's key. of is the uid of the node's record, or of its Node when it has no record.
func (g *Gate) adopts(request *nodeRequest, of string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	had, isKnown := g.adopted[request.node]
	if !isKnown || had.of != of {
		had = adoption{of, request.key}
		g.adopted[request.node] = had
		if g.adopt != nil {
			g.adopt(request.node, request.key)
		}
	}
	return had.key == request.key
}

// AdoptBy has adopt called for each node without a record, or with a record without keys,
// with the key that was taken for the node's own. adopt must not block.
func (g *Gate) AdoptBy(adopt func(node, key string)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.adopt = adopt
	for node, has := range g.adopted {
		adopt(node, has.key)
	}
}

// HasRecord reports whether a node has a record. Such a node is an agent of brink and is
// reached by its tunnel, whose other end has a certificate by that record. Until the caches
// are complete, every node counts as having one but the node in this process.
func (g *Gate) HasRecord(node string) bool {
	select {
	case <-g.ready:
	default:
		return node != g.ownNode
	}
	_, err := g.secrets.Get(node + Suffix)
	return err == nil
}

package noderecord

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"brink/internal/testwait"
	"brink/internal/wire/noderights"
)

// api is a gate before a handler that answers 200, or 401, or hangs at /watch.
type api struct {
	t      *testing.T
	client *fake.Clientset
	gate   *Gate
	served http.Handler
	began  chan struct{}
	user   user.Info // of the last request that came through

	mu    sync.Mutex
	taken []string // adopted
}

func newAPI(t *testing.T) *api {
	a := &api{t: t, client: fake.NewClientset(), gate: New("own"), began: make(chan struct{}, 10)}
	byCert := authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if r.Header.Get("Forged") != "" { // its signature is not the cluster's
			return nil, false, nil
		}
		cert := r.TLS.PeerCertificates[0]
		return &authenticator.Response{User: &user.DefaultInfo{Name: cert.Subject.CommonName, Groups: cert.Subject.Organization}}, true, nil
	})
	a.served = a.gate.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, ok, err := a.gate.Authenticator(byCert).AuthenticateRequest(r)
		if err != nil || !ok {
			a.hang(r)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		a.user = resp.User
		a.hang(r)
	}))
	a.gate.AdoptBy(func(node, key string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.taken = append(a.taken, node+" "+key)
	})
	return a
}

func (a *api) hang(r *http.Request) {
	if r.URL.Path == "/watch" {
		a.began <- struct{}{}
		<-r.Context().Done()
	}
}

// start lets the gate see what the client has made.
func (a *api) start() {
	a.t.Helper()
	shared := informers.NewSharedInformerFactory(a.client, 0)
	if err := a.gate.Watch(a.t.Context(), shared); err != nil {
		a.t.Fatal(err)
	}
	shared.Start(a.t.Context().Done())
}

func (a *api) make(objects ...any) {
	a.t.Helper()
	for _, object := range objects {
		var err error
		switch o := object.(type) {
		case *corev1.Node:
			_, err = a.client.CoreV1().Nodes().Create(a.t.Context(), o, metav1.CreateOptions{})
		case *corev1.Secret:
			_, err = a.client.CoreV1().Secrets(Namespace).Create(a.t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.ClusterRoleBinding:
			_, err = a.client.RbacV1().ClusterRoleBindings().Create(a.t.Context(), o, metav1.CreateOptions{})
		}
		if err != nil {
			a.t.Fatal(err)
		}
	}
}

func theNode(uid types.UID) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "till", UID: uid}}
}

// theRecord is bound to the Node of a uid unless that is empty.
func theRecord(uid string, certs ...*x509.Certificate) *corev1.Secret {
	r := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "till" + Suffix, UID: "record"}, Type: Type}
	if uid != "" {
		r.Annotations = map[string]string{NodeUID: uid}
	}
	for _, c := range certs {
		AddKey(r, KeyOf(c.RawSubjectPublicKeyInfo), KeyOf(c.RawSubjectPublicKeyInfo))
	}
	return r
}

// certificate has a key of its own.
func certificate(key string) *x509.Certificate {
	return &x509.Certificate{
		Subject:                 pkix.Name{CommonName: "system:node:till", Organization: []string{"system:nodes"}},
		RawSubjectPublicKeyInfo: []byte(key), NotBefore: time.Now(),
	}
}

func (a *api) request(ctx context.Context, cert *x509.Certificate, path string) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	return r
}

// asks returns the status, and why a node was refused.
func (a *api) asks(cert *x509.Certificate) (int, string) {
	w := httptest.NewRecorder()
	a.served.ServeHTTP(w, a.request(a.t.Context(), cert, "/"))
	return w.Code, w.Header().Get(noderights.Header)
}

func (a *api) eventually(what string, is func() bool) {
	a.t.Helper()
	testwait.Until(a.t, what, is)
}

func TestJudgement(t *testing.T) {
	t.Parallel()
	mine, other := certificate("mine"), certificate("other")
	early := certificate("mine")
	early.NotBefore = time.Now().Add(-time.Hour)
	old := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: OldRenewals}}
	made := func(r *corev1.Secret) *corev1.Secret { r.CreationTimestamp = metav1.Now(); return r }
	taken := func(r *corev1.Secret) *corev1.Secret {
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, Adopted, "true")
		return made(r)
	}
	foreign := theRecord("", mine)
	foreign.Type = corev1.SecretTypeOpaque
	for name, tc := range map[string]struct {
		has    []any
		asks   *x509.Certificate
		status int
		why    string
	}{
		"its own":                              {[]any{theNode("1"), theRecord("1", mine)}, mine, 200, ""},
		"the one before the last":              {[]any{theNode("1"), theRecord("1", mine, other)}, mine, 200, ""},
		"joining":                              {[]any{theRecord("", mine)}, mine, 200, ""},
		"another's":                            {[]any{theNode("1"), theRecord("1", mine)}, other, 401, noderights.Replaced},
		"no record":                            {[]any{theNode("1")}, mine, 401, noderights.Deleted},
		"nothing at all":                       {nil, mine, 401, noderights.Deleted},
		"the Node is gone, the record not yet": {[]any{theRecord("1", mine)}, mine, 401, noderights.Deleted},
		"the Node is another":                  {[]any{theNode("2"), theRecord("1", mine)}, mine, 401, noderights.Deleted},
		"somebody's Secret":                    {[]any{theNode("1"), foreign}, mine, 401, noderights.Deleted},
		"an old record":                        {[]any{theNode("1"), made(theRecord("1"))}, mine, 200, ""},
		"an old record, an older certificate":  {[]any{theNode("1"), made(theRecord("1"))}, early, 401, noderights.Replaced},
		"a record made for it":                 {[]any{theNode("1"), taken(theRecord("1"))}, early, 200, ""},
		"an old brink, no record":              {[]any{old, theNode("1")}, mine, 200, ""},
		"an old brink, no Node":                {[]any{old}, mine, 401, noderights.Deleted},
		"an old brink has renewed it":          {[]any{old, theNode("1"), made(theRecord("1", other))}, mine, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			a.make(tc.has...)
			a.start()
			if status, why := a.asks(tc.asks); status != tc.status || why != tc.why {
				t.Errorf("%d %q, want %d %q", status, why, tc.status, tc.why)
			}
		})
	}
}

// TestAdoptsOne: of two machines that show certificates of one name the first has it.
func TestAdoptsOne(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.make(theNode("1"), theRecord("1"))
	a.start()
	for _, tc := range []struct {
		cert   *x509.Certificate
		status int
	}{{certificate("first"), 200}, {certificate("second"), 401}, {certificate("first"), 200}} {
		if status, _ := a.asks(tc.cert); status != tc.status {
			t.Errorf("%s: %d, want %d", tc.cert.RawSubjectPublicKeyInfo, status, tc.status)
		}
	}
	if want := []string{"till " + KeyOf([]byte("first"))}; !slices.Equal(a.taken, want) {
		t.Errorf("adopted are %v, want %v", a.taken, want)
	}
}

// TestForgedIsNotAdopted: what anyone can make is nobody's, also while it is looked at.
func TestForgedIsNotAdopted(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.make(theNode("1"), theRecord("1"))
	a.start()
	ctx, end := context.WithCancel(t.Context())
	r := a.request(ctx, certificate("forged"), "/watch")
	r.Header.Set("Forged", "yes")
	ended := make(chan struct{})
	w := httptest.NewRecorder()
	go func() { a.served.ServeHTTP(w, r); close(ended) }()
	<-a.began
	a.gate.recheck(theRecord("1"), Suffix)
	end()
	<-ended
	if len(a.taken) > 0 || w.Header().Get(noderights.Header) != "" {
		t.Errorf("adopted are %v, told was %q", a.taken, w.Header())
	}
}

// TestRunningRequestsEnd with the rights by which they were begun, and only those.
func TestRunningRequestsEnd(t *testing.T) {
	t.Parallel()
	mine := certificate("mine")
	nodes := func(a *api) error {
		return a.client.CoreV1().Nodes().Delete(t.Context(), "till", metav1.DeleteOptions{})
	}
	secret := func(a *api) error {
		return a.client.CoreV1().Secrets(Namespace).Delete(t.Context(), "till"+Suffix, metav1.DeleteOptions{})
	}
	replace := func(a *api) error {
		_, err := a.client.CoreV1().Secrets(Namespace).Update(t.Context(), theRecord("1", certificate("other")), metav1.UpdateOptions{})
		return err
	}
	for name, act := range map[string]func(*api) error{"Node deleted": nodes, "record deleted": secret, "joined again": replace} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			a.make(theNode("1"), theRecord("1", mine))
			a.start()
			ended := a.watch(a.request(t.Context(), mine, "/watch"))
			<-a.began
			// What concerns others ends nothing.
			a.make(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
			if err := a.client.CoreV1().Nodes().Delete(t.Context(), "other", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			a.gate.recheck(theNode("1"), "")
			select {
			case err := <-ended:
				t.Fatalf("ended before: %v", err)
			case <-time.After(20 * time.Millisecond):
			}
			if err := act(a); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, errRightsEnded) {
				t.Errorf("it has ended with %v", err)
			}
			a.eventually("the certificate to be refused", func() bool { status, _ := a.asks(mine); return status == http.StatusUnauthorized })
			if len(a.gate.requests) > 0 {
				t.Errorf("requests are remembered: %v", a.gate.requests)
			}
		})
	}
}

// watch makes a request that the API server has verified, and that lasts until the gate ends
// it. The channel gets why.
func (a *api) watch(r *http.Request) <-chan error {
	ended := make(chan error, 1)
	go func() {
		var ctx context.Context
		a.gate.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx = r.Context()
			ctx.Value(requestKey{}).(*nodeRequest).isVerified.Store(true)
			a.hang(r)
		})).ServeHTTP(httptest.NewRecorder(), r)
		ended <- context.Cause(ctx)
	}()
	return ended
}

// TestWaitsForTheCaches: a server that has just started does not refuse its nodes.
func TestWaitsForTheCaches(t *testing.T) {
	t.Parallel()
	mine := certificate("mine")
	a := newAPI(t)
	a.make(theNode("1"), theRecord("1", mine))
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	w := httptest.NewRecorder()
	a.served.ServeHTTP(w, a.request(soon, mine, "/"))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("before: %d %v", w.Code, w.Header())
	}
	if !a.gate.HasRecord("till") || a.gate.HasRecord("own") {
		t.Error("before it is known, another node than the own is one that joined")
	}
	time.AfterFunc(20*time.Millisecond, a.start)
	if status, why := a.asks(mine); status != http.StatusOK {
		t.Errorf("then: %d %s", status, why)
	}
	if !a.gate.HasRecord("till") || a.gate.HasRecord("till-2") {
		t.Error("a record is not found, or one that is not there")
	}
}

// TestOthersPass: who has no certificate of a node is not the gate's business.
func TestOthersPass(t *testing.T) {
	t.Parallel()
	a := newAPI(t) // not started: it would wait
	admin := certificate("admin")
	admin.Subject.CommonName = "system:admin"
	if status, why := a.asks(admin); status != http.StatusOK || why != "" {
		t.Errorf("%d %q", status, why)
	}
	if len(a.user.GetExtra()) > 0 {
		t.Errorf("the user got %v", a.user.GetExtra())
	}
}

// TestTellsTheRecord: requests for certificates bear by which one they were made.
func TestTellsTheRecord(t *testing.T) {
	t.Parallel()
	mine := certificate("mine")
	a := newAPI(t)
	a.make(theNode("1"), theRecord("1", mine))
	a.start()
	a.asks(mine)
	extra := a.user.GetExtra()
	if got := extra[ExtraRecord]; !slices.Equal(got, []string{"record"}) {
		t.Errorf("the record is %v", got)
	}
	if got := extra[ExtraKey]; !slices.Equal(got, []string{KeyOf([]byte("mine"))}) {
		t.Errorf("the key is %v", got)
	}
}

// TestKeys: what asks stays, what is oldest goes.
func TestKeys(t *testing.T) {
	t.Parallel()
	key := func(s string) string { return KeyOf([]byte(s)) }
	r := theRecord("")
	AddKey(r, key("a"), key("b"))
	for _, next := range strings.Split("cdefghijklmnopqrst", "") {
		AddKey(r, key("a"), key(next))
	}
	// a asks, t is the next one, and 16 others stay.
	for s, want := range map[string]bool{"a": true, "b": false, "c": false, "d": true, "s": true, "t": true} {
		if HasKey(r, key(s)) != want {
			t.Errorf("%s: want it there: %t", s, want)
		}
	}
	if HasKey(r, "") || HasKey(r, key("t")[:63]) || HasKey(r, key("s")[1:]+"\n") {
		t.Error("a part of a key is one")
	}
}

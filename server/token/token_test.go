package token

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"brink/internal/wire/jointoken"
)

var hash = strings.Repeat("0", 64)

func addSecret(t *testing.T, client kubernetes.Interface, s *corev1.Secret) {
	t.Helper()
	if _, err := client.CoreV1().Secrets(s.Namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// foreign is a bootstrap token as kubeadm makes it.
func foreign(t jointoken.Token, ttl time.Duration) *corev1.Secret {
	s := NewSecret(t, ttl, "kubeadm's")
	s.Data["auth-extra-groups"] = []byte("system:bootstrappers:kubeadm:default-node-token")
	return s
}

func TestDeletingTokens(t *testing.T) {
	t.Parallel()
	c := fake.NewClientset()
	token, theirs, own := jointoken.New(hash), jointoken.New(hash), jointoken.New(hash)
	addSecret(t, c, NewSecret(token, 0, "for the tills"))
	addSecret(t, c, foreign(theirs, 0))
	if err := (ServerToken{Server: "hub"}).syncSecret(t.Context(), c, own); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]error{"aaaaaa": ErrNotFound, theirs.ID: ErrNotFound, own.ID: ErrServerToken, token.ID: nil} {
		if err := Delete(t.Context(), c, id); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
	}
	if err := Delete(t.Context(), c, token.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("a second time: %v", err)
	}
	list, err := List(t.Context(), c)
	if err != nil || len(list) != 1 || list[0].ID != own.ID || list[0].Server != "hub" || list[0].Expires != nil {
		t.Errorf("left are %+v, %v", list, err)
	}
	s, err := c.CoreV1().Secrets(namespace).Get(t.Context(), "bootstrap-token-"+token.ID, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range s.Data {
		if bytes.Contains(value, []byte(token.Secret)) {
			t.Errorf("%s still has the secret of a deleted token", key)
		}
	}
}

func TestServerTokenReplacesItself(t *testing.T) {
	t.Parallel()
	c := fake.NewClientset()
	first, second, other := jointoken.New(hash), jointoken.New(hash), jointoken.New(hash)
	keep := func(server string, token jointoken.Token) {
		t.Helper()
		if err := (ServerToken{Server: server}).syncSecret(t.Context(), c, token); err != nil {
			t.Fatal(err)
		}
	}
	if _, found, err := (ServerToken{Server: "hub"}).fromCluster(t.Context(), c); found || err != nil {
		t.Errorf("found %v, %v before there is one", found, err)
	}
	keep("hub", first)
	keep("other", other)
	actions := len(c.Actions())
	keep("hub", first)
	for _, a := range c.Actions()[actions:] {
		if a.GetVerb() != "get" && a.GetVerb() != "list" {
			t.Errorf("an unchanged token is written: %s", a.GetVerb())
		}
	}
	keep("hub", second)
	if got, found, err := (ServerToken{Server: "hub"}).fromCluster(t.Context(), c); err != nil || !found || got.Bootstrap() != second.Bootstrap() {
		t.Errorf("the token is %v, %v, %v", got, found, err)
	}
	if got, found, err := (ServerToken{Server: "other"}).fromCluster(t.Context(), c); err != nil || !found || got.Bootstrap() != other.Bootstrap() {
		t.Errorf("the other server's token is %v, %v, %v", got, found, err)
	}
	if list, err := List(t.Context(), c); err != nil || len(list) != 2 {
		t.Errorf("valid are %+v, %v", list, err)
	}
	// A datastore is restored in which it was deleted, or never was.
	keep("hub", first)
	if got, found, err := (ServerToken{Server: "hub"}).fromCluster(t.Context(), c); err != nil || !found || got.Bootstrap() != first.Bootstrap() {
		t.Errorf("an earlier token does not come back: %v, %v, %v", got, found, err)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	valid, expired, deleted, theirs, unused := jointoken.New(hash), jointoken.New(hash), jointoken.New(hash), jointoken.New(hash), jointoken.New(hash)
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	past := NewSecret(expired, time.Hour, "")
	setExpiration(past, time.Now().Add(-time.Minute))
	for _, s := range []*corev1.Secret{NewSecret(valid, time.Hour, ""), past, foreign(theirs, time.Hour), deletedSecret(t, deleted)} {
		if err := store.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	tokens := &StatusHandler{}
	if code, _ := askStatus(tokens, "Bearer "+valid.Bootstrap()); code != http.StatusServiceUnavailable {
		t.Errorf("before it knows: %d", code)
	}
	tokens.Use(corelisters.NewSecretLister(store).Secrets(namespace))
	wrong := func(t jointoken.Token) string { return "Bearer " + t.ID + "." + unused.Secret }
	sum := sha256.Sum256([]byte(deleted.Secret))
	tests := map[string]struct {
		authorization string
		code          int
		state         jointoken.State
	}{
		"valid":             {"Bearer " + valid.Bootstrap(), 200, jointoken.Valid},
		"expired":           {"Bearer " + expired.Bootstrap(), 410, jointoken.Expired},
		"deleted":           {"Bearer " + deleted.Bootstrap(), 410, jointoken.Deleted},
		"unknown":           {"Bearer " + unused.Bootstrap(), 401, jointoken.Unknown},
		"wrong secret":      {wrong(valid), 401, jointoken.Unknown},
		"expired and wrong": {wrong(expired), 401, jointoken.Unknown},
		"deleted and wrong": {wrong(deleted), 401, jointoken.Unknown},
		"deleted, no more":  {"Bearer " + deleted.ID + ".", 401, jointoken.Unknown},
		"deleted, by hash":  {"Bearer " + deleted.ID + "." + string(sum[:]), 401, jointoken.Unknown},
		"another group's":   {"Bearer " + theirs.Bootstrap(), 401, jointoken.Unknown},
		"nothing":           {"", 401, jointoken.Unknown},
		"no token":          {"Bearer ../../x", 401, jointoken.Unknown},
	}
	for name, test := range tests {
		code, status := askStatus(tokens, test.authorization)
		if code != test.code || status.State != test.state {
			t.Errorf("%s: %d %s, want %d %s", name, code, status.State, test.code, test.state)
		}
		if (status.Since != nil) != (test.code == http.StatusGone) {
			t.Errorf("%s: since %v", name, status.Since)
		}
	}
}

// deletedSecret returns what Delete leaves of a token.
func deletedSecret(t *testing.T, deleted jointoken.Token) *corev1.Secret {
	c := fake.NewClientset()
	addSecret(t, c, NewSecret(deleted, 0, ""))
	if err := Delete(t.Context(), c, deleted.ID); err != nil {
		t.Fatal(err)
	}
	left, err := c.CoreV1().Secrets(namespace).Get(t.Context(), "bootstrap-token-"+deleted.ID, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func askStatus(tokens *StatusHandler, authorization string) (int, jointoken.Status) {
	r := httptest.NewRequest(http.MethodGet, jointoken.StatusPath, nil)
	r.Header.Set("Authorization", authorization)
	w := httptest.NewRecorder()
	tokens.ServeHTTP(w, r)
	var status jointoken.Status
	_ = json.Unmarshal(w.Body.Bytes(), &status)
	return w.Code, status
}

func TestCACerts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ca.crt")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("one")})
	more := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("two")})
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("secret")})
	if err := os.WriteFile(path, bytes.Join([][]byte{[]byte("# ours\n"), cert, key, more}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(method, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		CACerts(path).ServeHTTP(w, httptest.NewRequest(method, jointoken.CAPath, nil))
		return w
	}
	w := ask(http.MethodGet, path)
	if w.Code != 200 || !bytes.Equal(w.Body.Bytes(), append(cert, more...)) || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v\n%s", w.Code, w.Header(), w.Body)
	}
	if w := ask(http.MethodPost, path); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
	if w := ask(http.MethodGet, path+".no"); w.Code != 500 || strings.Contains(w.Body.String(), path) {
		t.Errorf("without a file: %d %s", w.Code, w.Body)
	}
}

// TestRemoveEnded: join tokens are removed a week after their end, other bootstrap tokens
// at once, and the next one to end is waited for.
func TestRemoveEnded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := fake.NewClientset()
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	add := func(s *corev1.Secret, ends time.Duration) {
		setExpiration(s, now.Add(ends))
		addSecret(t, c, s)
		if err := store.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	old, ended, theirs := jointoken.New(hash), jointoken.New(hash), jointoken.New(hash)
	add(NewSecret(old, 0, ""), -8*24*time.Hour)
	add(NewSecret(ended, 0, ""), -7*24*time.Hour+2*time.Hour)
	add(foreign(theirs, 0), -time.Minute)
	add(foreign(jointoken.New(hash), 0), 3*time.Hour)
	forever := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bootstrap-token-other"}, Type: corev1.SecretTypeOpaque}
	addSecret(t, c, forever)
	if err := store.Add(forever); err != nil {
		t.Fatal(err)
	}

	lister := corelisters.NewSecretLister(store).Secrets(namespace)
	next, errs := RemoveEnded(t.Context(), c, lister, now)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if next < 2*time.Hour-time.Second || next > 2*time.Hour {
		t.Errorf("looks again in %s, want 2h", next)
	}
	var removed []string
	for _, a := range c.Actions() {
		if d, ok := a.(clienttesting.DeleteAction); ok {
			removed = append(removed, d.GetName())
		}
	}
	slices.Sort(removed)
	want := []string{"bootstrap-token-" + old.ID, "bootstrap-token-" + theirs.ID}
	slices.Sort(want)
	if !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q", removed, want)
	}
	if next, _ := RemoveEnded(t.Context(), c, lister, now.Add(-10*24*time.Hour)); next != maxWait {
		t.Errorf("ten days before, it looks again in %s, want %s", next, maxWait)
	}
}

package token

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"brink/internal/wire/jointoken"
)

// StatusHandler answers jointoken.StatusPath with the state of the token in the
// request. The zero value answers that the server is starting.
//
// It is open to everyone and tells nothing to anyone without the secret part: every
// other token is unknown, whether its id exists or not. An answer costs a lookup in the
// API server's cache.
type StatusHandler struct {
	secrets atomic.Pointer[corelisters.SecretNamespaceLister]
}

// Use has the handler answer from these Secrets of kube-system from now on.
func (h *StatusHandler) Use(secrets corelisters.SecretNamespaceLister) { h.secrets.Store(&secrets) }

var statusCode = map[jointoken.State]int{
	jointoken.Valid: http.StatusOK, jointoken.Expired: http.StatusGone,
	jointoken.Deleted: http.StatusGone, jointoken.Unknown: http.StatusUnauthorized,
}

func (h *StatusHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isRead(w, r) {
		return
	}
	secrets := h.secrets.Load()
	if secrets == nil {
		http.Error(w, "the server is starting", http.StatusServiceUnavailable)
		return
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	status := statusOf(*secrets, bearer, time.Now())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusCode[status.State])
	_ = json.NewEncoder(w).Encode(status)
}

// isRead reports whether r is a GET or HEAD, and answers 405 otherwise. No answer is
// to be cached.
func isRead(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, "only GET", http.StatusMethodNotAllowed)
	return false
}

// statusOf returns the state of the token ID.SECRET in bearer.
func statusOf(secrets corelisters.SecretNamespaceLister, bearer string, now time.Time) jointoken.Status {
	unknown := jointoken.Status{State: jointoken.Unknown}
	id, secret, _ := strings.Cut(bearer, ".")
	if !jointoken.IsID(id) {
		return unknown
	}
	s, err := secrets.Get(bootstrapapi.BootstrapTokenSecretPrefix + id)
	if err != nil {
		return unknown
	}
	t, isJoinToken := fromSecret(s)
	if !isJoinToken || !isSecretOf(s, secret) {
		return unknown
	}
	status := jointoken.Status{State: t.State(now)}
	if status.State != jointoken.Valid {
		status.Since = t.Expires
	}
	return status
}

// isSecretOf reports whether secret is the secret part of the token in s. It compares
// in constant time.
func isSecretOf(s *corev1.Secret, secret string) bool {
	has, want := []byte(secret), s.Data[bootstrapapi.BootstrapTokenSecretKey]
	if hash, ok := s.Data[secretHash]; ok {
		sum := sha256.Sum256(has)
		has, want = []byte(hex.EncodeToString(sum[:])), hash
	}
	return len(want) > 0 && subtle.ConstantTimeCompare(has, want) == 1
}

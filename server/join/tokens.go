package join

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"brink/internal/wire/jointoken"
)

// TokenGroup is the group of those who hold a join token. Bootstrap tokens of
// other groups are other people's.
const TokenGroup = "system:bootstrappers:brink"

const (
	// serverLabel marks servers' own tokens, serverName says which server's.
	serverLabel = "brink.io/server-token"
	serverName  = "brink.io/server"
	// deletedLabel marks a token that was deleted and is remembered. In place of
	// its secret it has the SHA-256 of it: nobody can join by it, whatever happens
	// to the Secret.
	deletedLabel = "brink.io/token-deleted"
	secretHash   = "token-secret-sha256"

	// rememberFor is how long a token is remembered after it has ended, so that who
	// still holds it is told what has become of it.
	rememberFor = 7 * 24 * time.Hour
	// maxWait bounds waiting for a token's end: clocks of boards jump.
	maxWait = 6 * time.Hour
)

// Token is what may be shown of a join token.
type Token struct {
	ID          string     `json:"id"`
	Description string     `json:"description"`
	Expires     *time.Time `json:"expires"` // nil is never
	// Server is the server whose own token it is, empty for all others.
	Server  string `json:"server,omitempty"`
	Deleted bool   `json:"-"` // Expires is when
}

// State of the token at a moment.
func (t Token) State(now time.Time) jointoken.State {
	switch {
	case t.Deleted:
		return jointoken.Deleted
	case t.Expires != nil && !now.Before(*t.Expires):
		return jointoken.Expired
	}
	return jointoken.Valid
}

// NewToken is a bootstrap token as a Secret. With ttl 0 it does not expire.
func NewToken(t jointoken.Token, ttl time.Duration, description string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: bootstrapapi.BootstrapTokenSecretPrefix + t.ID},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(t.ID),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(t.Secret),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(TokenGroup),
			bootstrapapi.BootstrapTokenDescriptionKey:      []byte(description),
		},
	}
	if ttl > 0 {
		setExpiration(s, time.Now().Add(ttl))
	}
	return s
}

func setExpiration(s *corev1.Secret, t time.Time) {
	s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(t.UTC().Format(time.RFC3339))
}

// expirationOf is nil for never. What cannot be read is over since ever, as the
// API server sees it.
func expirationOf(s *corev1.Secret) *time.Time {
	text := s.Data[bootstrapapi.BootstrapTokenExpirationKey]
	if len(text) == 0 {
		return nil
	}
	t, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return &time.Time{}
	}
	return &t
}

// tokenIn reads a Secret that holds a join token.
func tokenIn(s *corev1.Secret) (Token, bool) {
	id, isNamed := strings.CutPrefix(s.Name, bootstrapapi.BootstrapTokenSecretPrefix)
	groups := strings.Split(string(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), ",")
	if s.Type != bootstrapapi.SecretTypeBootstrapToken || !isNamed || !slices.Contains(groups, TokenGroup) {
		return Token{}, false
	}
	t := Token{
		ID:          id,
		Description: string(s.Data[bootstrapapi.BootstrapTokenDescriptionKey]),
		Expires:     expirationOf(s),
		Deleted:     s.Labels[deletedLabel] != "",
	}
	if s.Labels[serverLabel] != "" {
		t.Server = s.Annotations[serverName]
	}
	return t, true
}

// ListTokens lists the join tokens that were not deleted.
func ListTokens(ctx context.Context, client kubernetes.Interface) ([]Token, error) {
	secrets, err := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken),
	})
	if err != nil {
		return nil, err
	}
	var out []Token
	for _, s := range secrets.Items {
		if t, ok := tokenIn(&s); ok && !t.Deleted {
			out = append(out, t)
		}
	}
	return out, nil
}

// Errors of DeleteToken.
var (
	ErrNoToken     = errors.New("there is no such join token")
	ErrServerToken = errors.New("this is a server's own token")
)

// DeleteToken ends a token. Machines that have joined by it are not concerned.
func DeleteToken(ctx context.Context, client kubernetes.Interface, id string) error {
	secrets := client.CoreV1().Secrets(namespace)
	s, err := secrets.Get(ctx, bootstrapapi.BootstrapTokenSecretPrefix+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ErrNoToken
	}
	if err != nil {
		return err
	}
	t, isOurs := tokenIn(s)
	switch {
	case !isOurs || t.Deleted:
		return ErrNoToken
	case t.Server != "":
		return ErrServerToken
	}
	return endToken(ctx, client, s)
}

// endToken leaves of a token what is needed to recognise it.
func endToken(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	s = s.DeepCopy()
	sum := sha256.Sum256(s.Data[bootstrapapi.BootstrapTokenSecretKey])
	s.Data[secretHash] = []byte(hex.EncodeToString(sum[:]))
	delete(s.Data, bootstrapapi.BootstrapTokenSecretKey)
	delete(s.Data, bootstrapapi.BootstrapTokenUsageAuthentication)
	delete(s.Labels, serverLabel)
	metav1.SetMetaDataLabel(&s.ObjectMeta, deletedLabel, "true")
	setExpiration(s, time.Now())
	_, err := client.CoreV1().Secrets(namespace).Update(ctx, s, metav1.UpdateOptions{})
	return err
}

// Tokens answers jointoken.StatusPath. The zero value answers that it cannot
// tell yet.
//
// It is open to everyone and tells nothing but to who has the secret: all else is
// unknown, whether there is such an id or not. An answer costs a look into the
// API server's cache.
type Tokens struct {
	mu      sync.Mutex
	secrets corelisters.SecretNamespaceLister
}

func (t *Tokens) arm(secrets corelisters.SecretNamespaceLister) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secrets = secrets
}

func (t *Tokens) armed() corelisters.SecretNamespaceLister {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.secrets
}

var statusCode = map[jointoken.State]int{
	jointoken.Valid: http.StatusOK, jointoken.Expired: http.StatusGone,
	jointoken.Deleted: http.StatusGone, jointoken.Unknown: http.StatusUnauthorized,
}

func (t *Tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isRead(w, r) {
		return
	}
	secrets := t.armed()
	if secrets == nil {
		http.Error(w, "the server is starting", http.StatusServiceUnavailable)
		return
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	status := statusOf(secrets, bearer, time.Now())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusCode[status.State])
	_ = json.NewEncoder(w).Encode(status)
}

// isRead answers requests that are none.
func isRead(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", "GET, HEAD")
	http.Error(w, "only GET", http.StatusMethodNotAllowed)
	return false
}

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
	token, isOurs := tokenIn(s)
	if !isOurs || !isSecretOf(s, secret) {
		return unknown
	}
	status := jointoken.Status{State: token.State(now)}
	if status.State != jointoken.Valid {
		status.Since = token.Expires
	}
	return status
}

// tokenState is that of the token by which a request was made. The API server
// takes a token for up to ten seconds after its end (TokenSuccessCacheTTL), which
// is long enough to join by one that was deleted because it got into wrong hands.
func (c *Controller) tokenState(ctx context.Context, id string) (jointoken.State, error) {
	s, err := c.cfg.Client.CoreV1().Secrets(namespace).Get(ctx, bootstrapapi.BootstrapTokenSecretPrefix+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return jointoken.Unknown, nil
	}
	if err != nil {
		return "", err
	}
	token, isOurs := tokenIn(s)
	if !isOurs {
		return jointoken.Unknown, nil
	}
	return token.State(c.now()), nil
}

// isSecretOf compares in constant time.
func isSecretOf(s *corev1.Secret, secret string) bool {
	has, want := []byte(secret), s.Data[bootstrapapi.BootstrapTokenSecretKey]
	if hash, ok := s.Data[secretHash]; ok {
		sum := sha256.Sum256(has)
		has, want = []byte(hex.EncodeToString(sum[:])), hash
	}
	return len(want) > 0 && subtle.ConstantTimeCompare(has, want) == 1
}

// keepTokens removes bootstrap tokens that have ended: join tokens when they were
// remembered for long enough, others at once as upstream's tokencleaner.
func (c *Controller) keepTokens(ctx context.Context) error {
	all, err := c.secrets.List(labels.Everything())
	if err != nil {
		return err
	}
	wait, waits := maxWait, false
	var errs []error
	for _, s := range all {
		end := forgetAt(s)
		if end == nil {
			continue
		}
		if left := end.Sub(c.now()); left > 0 {
			wait, waits = min(wait, left), true
			continue
		}
		if err := c.cfg.Client.CoreV1().Secrets(namespace).Delete(ctx, s.Name, exactly(s)); !apierrors.IsNotFound(err) && err != nil {
			errs = append(errs, fmt.Errorf("removing the expired token %s: %w", s.Name, err))
		}
	}
	if waits {
		c.queue.AddAfter(task{kind: keepTokens}, wait)
	}
	return firstOf(errs)
}

// forgetAt is when a bootstrap token is removed, nil for never and for all other
// Secrets.
func forgetAt(s *corev1.Secret) *time.Time {
	if s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return nil
	}
	end := expirationOf(s)
	if _, isOurs := tokenIn(s); isOurs && end != nil && !end.IsZero() {
		later := end.Add(rememberFor)
		return &later
	}
	return end
}

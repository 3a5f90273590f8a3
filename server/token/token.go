// Package token keeps the join tokens of a cluster: it makes, lists and deletes them,
// holds each server's own one, removes those that have ended, and tells a machine what
// became of the one it has.
//
// A join token is a Kubernetes bootstrap token, a Secret in kube-system, in the group
// Group. The API server checks it when a machine speaks by it; internal/wire/jointoken
// has its text form, and server/join decides what may be done with it.
//
// Decisions:
//   - A token that has expired or was deleted is remembered for a week, without effect,
//     so that the person at the machine reads "the token has expired" and not "unknown
//     token". Upstream's tokencleaner would remove it at once and is off; RemoveEnded
//     does its work.
//   - The server's own token lives in a file and in a Secret. The file rules, see
//     ServerToken.
//   - Status and CACerts answer anyone who reaches the port. Neither tells a secret: the
//     state of a token is told only to whoever has its secret part.
package token

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"brink/internal/wire/jointoken"
)

const namespace = metav1.NamespaceSystem

// Group is the user group of everyone who speaks by a join token. Bootstrap tokens of
// other groups are not brink's and are left alone.
const Group = "system:bootstrappers:brink"

const (
	// serverLabel marks servers' own tokens; the annotation serverName says which
	// server's.
	serverLabel = "brink.io/server-token"
	serverName  = "brink.io/server"
	// deletedLabel marks a deleted token that is still remembered. The Secret then has
	// the SHA-256 of the secret part in place of the secret part: nobody can join by
	// it, whatever happens to the Secret.
	deletedLabel = "brink.io/token-deleted"
	secretHash   = "token-secret-sha256"
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

// State returns the state of the token at a moment.
func (t Token) State(now time.Time) jointoken.State {
	switch {
	case t.Deleted:
		return jointoken.Deleted
	case t.Expires != nil && !now.Before(*t.Expires):
		return jointoken.Expired
	}
	return jointoken.Valid
}

// NewSecret returns t as the Secret of a bootstrap token. With ttl 0 it does not
// expire.
func NewSecret(t jointoken.Token, ttl time.Duration, description string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: bootstrapapi.BootstrapTokenSecretPrefix + t.ID},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(t.ID),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(t.Secret),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(Group),
			bootstrapapi.BootstrapTokenDescriptionKey:      []byte(description),
		},
	}
	if ttl > 0 {
		setExpiration(s, time.Now().Add(ttl))
	}
	return s
}

// fromSecret reads a Secret and reports whether it holds a join token.
func fromSecret(s *corev1.Secret) (Token, bool) {
	id, isNamed := strings.CutPrefix(s.Name, bootstrapapi.BootstrapTokenSecretPrefix)
	groups := strings.Split(string(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), ",")
	if s.Type != bootstrapapi.SecretTypeBootstrapToken || !isNamed || !slices.Contains(groups, Group) {
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

// List returns the join tokens that were not deleted.
func List(ctx context.Context, client kubernetes.Interface) ([]Token, error) {
	secrets, err := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken),
	})
	if err != nil {
		return nil, err
	}
	var out []Token
	for _, s := range secrets.Items {
		if t, ok := fromSecret(&s); ok && !t.Deleted {
			out = append(out, t)
		}
	}
	return out, nil
}

// StateOf returns the state of the token with this id, as the datastore has it and
// not a cache: the API server accepts a token for up to ten seconds after its end
// (TokenSuccessCacheTTL), which is long enough to join by one that was deleted because
// it got into wrong hands.
func StateOf(ctx context.Context, client kubernetes.Interface, id string, now time.Time) (jointoken.State, error) {
	s, err := client.CoreV1().Secrets(namespace).Get(ctx, bootstrapapi.BootstrapTokenSecretPrefix+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return jointoken.Unknown, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading token %s: %w", id, err)
	}
	t, isJoinToken := fromSecret(s)
	if !isJoinToken {
		return jointoken.Unknown, nil
	}
	return t.State(now), nil
}

// Errors of Delete.
var (
	ErrNotFound    = errors.New("there is no such join token")
	ErrServerToken = errors.New("this is a server's own token")
)

// Delete ends a token. Machines that have joined by it are not affected.
func Delete(ctx context.Context, client kubernetes.Interface, id string) error {
	secrets := client.CoreV1().Secrets(namespace)
	s, err := secrets.Get(ctx, bootstrapapi.BootstrapTokenSecretPrefix+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ErrNotFound
	}
	if err != nil {
		return err
	}
	t, isJoinToken := fromSecret(s)
	switch {
	case !isJoinToken || t.Deleted:
		return ErrNotFound
	case t.Server != "":
		return ErrServerToken
	}
	return invalidate(ctx, client, s)
}

// invalidate leaves of a token only what is needed to recognise it.
func invalidate(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
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

package token

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

const (
	// rememberFor is how long a token is remembered after it has ended, so that
	// whoever still holds it is told what has become of it.
	rememberFor = 7 * 24 * time.Hour
	// maxWait bounds the wait for the next token to end: the clock of a board may jump.
	maxWait = 6 * time.Hour
)

func setExpiration(s *corev1.Secret, t time.Time) {
	s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(t.UTC().Format(time.RFC3339))
}

// expirationOf returns when a token expires, nil for never. An unreadable expiry
// counts as already expired, as in the API server.
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

// RemoveEnded removes the Secrets of bootstrap tokens that have ended: join tokens when
// they were remembered for long enough, all others at once, as upstream's tokencleaner
// does. next is after how long there may be another one to remove, 0 when none is going to end;
// errs are the errors of those that could not be removed.
func RemoveEnded(ctx context.Context, client kubernetes.Interface, secrets corelisters.SecretNamespaceLister, now time.Time) (next time.Duration, errs []error) {
	all, err := secrets.List(labels.Everything())
	if err != nil {
		return 0, []error{err}
	}
	for _, s := range all {
		end := removeAt(s)
		if end == nil {
			continue
		}
		if left := end.Sub(now); left > 0 {
			if left = min(left, maxWait); next == 0 || left < next {
				next = left
			}
			continue
		}
		if err := remove(ctx, client, s); err != nil {
			errs = append(errs, fmt.Errorf("removing the expired token %s: %w", s.Name, err))
		}
	}
	return next, errs
}

// remove removes exactly this state of a Secret.
func remove(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	exactly := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}}
	err := client.CoreV1().Secrets(namespace).Delete(ctx, s.Name, exactly)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// removeAt returns when a bootstrap token is removed, nil for never and for all other
// Secrets.
func removeAt(s *corev1.Secret) *time.Time {
	if s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return nil
	}
	end := expirationOf(s)
	if _, isJoinToken := fromSecret(s); isJoinToken && end != nil && !end.IsZero() {
		later := end.Add(rememberFor)
		return &later
	}
	return end
}

package join

import (
	"bytes"
	"context"
	"errors"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"brink/internal/wire/jointoken"
)

// ServerToken returns the token that a server has now, without a hash.
func ServerToken(ctx context.Context, client kubernetes.Interface, server string) (_ jointoken.Token, found bool, _ error) {
	own, err := serverTokens(ctx, client, server)
	if err != nil {
		return jointoken.Token{}, false, err
	}
	for _, s := range own {
		t := jointoken.Token{
			ID:     string(s.Data[bootstrapapi.BootstrapTokenIDKey]),
			Secret: string(s.Data[bootstrapapi.BootstrapTokenSecretKey]),
		}
		if jointoken.IsBootstrap(t.Bootstrap()) {
			return t, true, nil
		}
	}
	return jointoken.Token{}, false, nil
}

// KeepServerToken makes a token the only one that is a server's own. It does not
// expire. Those that the server had before end.
func KeepServerToken(ctx context.Context, client kubernetes.Interface, server string, token jointoken.Token) error {
	want := NewToken(token, 0, "the own token of server "+server)
	want.Labels = map[string]string{serverLabel: "true"}
	want.Annotations = map[string]string{serverName: server}
	if err := keepSecret(ctx, client, want); err != nil {
		return err
	}
	own, err := serverTokens(ctx, client, server)
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range own {
		if s.Name != want.Name {
			errs = append(errs, endToken(ctx, client, &s))
		}
	}
	return errors.Join(errs...)
}

func keepSecret(ctx context.Context, client kubernetes.Interface, want *corev1.Secret) error {
	secrets := client.CoreV1().Secrets(namespace)
	has, err := secrets.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = secrets.Create(ctx, want, metav1.CreateOptions{})
		return err
	case err != nil:
		return err
	case maps.EqualFunc(has.Data, want.Data, bytes.Equal) && has.Labels[serverLabel] != "" &&
		has.Labels[deletedLabel] == "" && has.Annotations[serverName] == want.Annotations[serverName]:
		return nil
	}
	has.Data, has.Labels, has.Annotations = want.Data, want.Labels, want.Annotations
	_, err = secrets.Update(ctx, has, metav1.UpdateOptions{})
	return err
}

func serverTokens(ctx context.Context, client kubernetes.Interface, server string) ([]corev1.Secret, error) {
	list, err := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{LabelSelector: serverLabel})
	if err != nil {
		return nil, err
	}
	var out []corev1.Secret
	for _, s := range list.Items {
		if t, ok := tokenIn(&s); ok && t.Server == server {
			out = append(out, s)
		}
	}
	return out, nil
}

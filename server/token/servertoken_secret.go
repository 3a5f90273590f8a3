package token

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

// fromCluster returns the token that the cluster has for the server, without a hash.
func (s ServerToken) fromCluster(ctx context.Context, client kubernetes.Interface) (_ jointoken.Token, found bool, _ error) {
	secrets, err := s.secrets(ctx, client)
	if err != nil {
		return jointoken.Token{}, false, err
	}
	for _, secret := range secrets {
		t := jointoken.Token{
			ID:     string(secret.Data[bootstrapapi.BootstrapTokenIDKey]),
			Secret: string(secret.Data[bootstrapapi.BootstrapTokenSecretKey]),
		}
		if jointoken.IsBootstrap(t.Bootstrap()) {
			return t, true, nil
		}
	}
	return jointoken.Token{}, false, nil
}

// syncSecret makes t the only token of the server. Earlier ones end.
func (s ServerToken) syncSecret(ctx context.Context, client kubernetes.Interface, t jointoken.Token) error {
	want := NewSecret(t, 0, "the own token of server "+s.Server)
	want.Labels = map[string]string{serverLabel: "true"}
	want.Annotations = map[string]string{serverName: s.Server}
	if err := writeSecret(ctx, client, want); err != nil {
		return err
	}
	secrets, err := s.secrets(ctx, client)
	if err != nil {
		return err
	}
	var errs []error
	for _, secret := range secrets {
		if secret.Name != want.Name {
			errs = append(errs, invalidate(ctx, client, &secret))
		}
	}
	return errors.Join(errs...)
}

// writeSecret writes nothing when the cluster has want already.
func writeSecret(ctx context.Context, client kubernetes.Interface, want *corev1.Secret) error {
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

// secrets returns the Secrets with tokens of the server.
func (s ServerToken) secrets(ctx context.Context, client kubernetes.Interface) ([]corev1.Secret, error) {
	list, err := client.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{LabelSelector: serverLabel})
	if err != nil {
		return nil, err
	}
	var out []corev1.Secret
	for _, secret := range list.Items {
		if t, ok := fromSecret(&secret); ok && t.Server == s.Server {
			out = append(out, secret)
		}
	}
	return out, nil
}

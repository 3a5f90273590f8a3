package server

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// refusing is a cluster in which admission refuses every create.
func refusing(objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewInternalError(errors.New("failed calling webhook"))
	})
	return client
}

// A webhook that is out of order must not end a server whose objects are there.
func TestBindingThatExistsIsNotWritten(t *testing.T) {
	t.Parallel()
	changed := kubeletAPIBinding()
	changed.Subjects = append(changed.Subjects, rbacv1.Subject{Kind: rbacv1.UserKind, Name: "a user's own"})
	client := refusing(changed)
	if err := ensureObject(t.Context(), client.RbacV1().ClusterRoleBindings(), kubeletAPIBinding()); err != nil {
		t.Error(err)
	}
	got, err := client.RbacV1().ClusterRoleBindings().Get(t.Context(), changed.Name, metav1.GetOptions{})
	if err != nil || len(got.Subjects) != 2 {
		t.Errorf("got %v, %v, want what the user made of it", got, err)
	}
}

func TestBindingIsMade(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	if err := ensureObject(t.Context(), client.RbacV1().ClusterRoleBindings(), kubeletAPIBinding()); err != nil {
		t.Fatal(err)
	}
	got, err := client.RbacV1().ClusterRoleBindings().Get(t.Context(), kubeletAPIBinding().Name, metav1.GetOptions{})
	if err != nil || got.RoleRef.Name != "system:kubelet-api-admin" {
		t.Errorf("got %v, %v", got, err)
	}
}

// Someone else may be quicker between the look and the write.
func TestBindingMadeMeanwhile(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	client.PrependReactor("create", "*", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewAlreadyExists(schema.GroupResource{}, kubeletAPIBinding().Name)
	})
	if err := ensureObject(t.Context(), client.RbacV1().ClusterRoleBindings(), kubeletAPIBinding()); err != nil {
		t.Error(err)
	}
}

func TestBindingRefused(t *testing.T) {
	t.Parallel()
	if err := ensureObject(t.Context(), refusing().RbacV1().ClusterRoleBindings(), kubeletAPIBinding()); err == nil {
		t.Error("a refused write passes for done")
	}
}

func TestLeaseNamespace(t *testing.T) {
	t.Parallel()
	exists := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}
	if err := ensureLeaseNamespace(t.Context(), refusing(exists)); err != nil {
		t.Errorf("one that exists is written: %v", err)
	}
	if err := ensureLeaseNamespace(t.Context(), refusing()); err == nil {
		t.Error("a refused write passes for done")
	}
	client := fake.NewClientset()
	if err := ensureLeaseNamespace(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), corev1.NamespaceNodeLease, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestEnsureTriesUntilDone(t *testing.T) {
	t.Parallel()
	tries := 0
	ensure(t.Context(), "it", func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if tries != 3 {
		t.Errorf("tried %d times, want 3", tries)
	}
}

func TestEnsureEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	tried := make(chan struct{}, 1)
	go func() {
		ensure(ctx, "it", func(context.Context) error {
			select {
			case tried <- struct{}{}:
			default:
			}
			return errors.New("never")
		})
		close(ended)
	}()
	<-tried
	cancel()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it goes on after its context's end")
	}
}

package server

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedrbacv1 "k8s.io/client-go/kubernetes/typed/rbac/v1"

	"brink/internal/clusterconfig"
	"brink/server/join"
	"brink/server/pki"
)

const nodesGroup = "system:nodes"

// kubeletAPIBinding lets the API server fetch logs and run commands through
// kubelets, and nothing else.
func kubeletAPIBinding() *rbacv1.ClusterRoleBinding {
	return bind("brink:kube-apiserver-to-kubelet", "system:kubelet-api-admin", rbacv1.UserKind, pki.KubeletClientUser)
}

// nodeBindings give upstream's roles to nodes and to who wants to be one. Nobody is bound to
// system:certificates.k8s.io:certificatesigningrequests:nodeclient or :selfnodeclient: with
// them upstream's csrapproving would approve any name for who has it, and renewals
// that no record knows of.
func nodeBindings() []*rbacv1.ClusterRoleBinding {
	return []*rbacv1.ClusterRoleBinding{
		// A node's service proxy, which has the node's identity.
		bind("brink:node-proxier", "system:node-proxier", rbacv1.GroupKind, nodesGroup),
		// A machine with a join token asks for its first one.
		bind("brink:node-bootstrapper", "system:node-bootstrapper", rbacv1.GroupKind, join.TokenGroup),
		bind(nodeRole().Name, nodeRole().Name, rbacv1.GroupKind, nodesGroup),
	}
}

func bind(name, role, kind, subject string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: kind, APIGroup: rbacv1.GroupName, Name: subject}},
	}
}

// nodeRole is what brink's agents do with brink's own paths: keep a tunnel.
func nodeRole() *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "brink:node"},
		Rules:      []rbacv1.PolicyRule{{NonResourceURLs: []string{"/brink/v1/*"}, Verbs: []string{"get"}}},
	}
}

// clusterConfigRole lets nodes read what they must know about the cluster.
func clusterConfigRole() *rbacv1.Role {
	return &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: clusterconfig.Namespace, Name: "brink:cluster-config"},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{clusterconfig.Name}, Verbs: []string{"get"},
		}},
	}
}

func clusterConfigBinding() *rbacv1.RoleBinding {
	role := clusterConfigRole()
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: role.Namespace, Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: nodesGroup}},
	}
}

// objects are those of a kind, as the typed clients have them.
type objects[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, object T, opts metav1.CreateOptions) (T, error)
}

// ensureObject makes an object that is missing. One that is there is its user's.
func ensureObject[T metav1.Object](ctx context.Context, all objects[T], want T) error {
	_, err := all.Get(ctx, want.GetName(), metav1.GetOptions{})
	return ifMissing(err, func() error {
		_, err := all.Create(ctx, want, metav1.CreateOptions{})
		return err
	})
}

// nodeAccess is what makes the objects that nodes, and who wants to be one, have
// their rights by, under what they are called.
func nodeAccess(rbac typedrbacv1.RbacV1Interface) map[string]func(context.Context) error {
	role, binding := clusterConfigRole(), clusterConfigBinding()
	out := map[string]func(context.Context) error{
		"ClusterRole " + nodeRole().Name: func(ctx context.Context) error { return ensureObject(ctx, rbac.ClusterRoles(), nodeRole()) },
		"Role " + role.Name:              func(ctx context.Context) error { return ensureObject(ctx, rbac.Roles(role.Namespace), role) },
		"RoleBinding " + binding.Name: func(ctx context.Context) error {
			return ensureObject(ctx, rbac.RoleBindings(binding.Namespace), binding)
		},
	}
	for _, b := range nodeBindings() {
		out["ClusterRoleBinding "+b.Name] = func(ctx context.Context) error { return ensureObject(ctx, rbac.ClusterRoleBindings(), b) }
	}
	return out
}

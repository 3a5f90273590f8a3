package server

import (
	"context"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/internal/wire/clusterconfig"
	"brink/internal/wire/nodeuser"
	"brink/server/pki"
	"brink/server/token"
)

// kubeletAPIBinding lets the API server use the kubelets' API, by which it fetches logs and
// runs commands, and nothing else.
func kubeletAPIBinding() *rbacv1.ClusterRoleBinding {
	return bind("brink:kube-apiserver-to-kubelet", "system:kubelet-api-admin", rbacv1.UserKind, pki.KubeletClientUser)
}

// nodeBindings bind roles to nodes and to machines that join. Nobody is bound to
// system:certificates.k8s.io:certificatesigningrequests:nodeclient or :selfnodeclient: for
// whoever is, upstream's csrapproving would approve any name, and renewals without a record.
func nodeBindings() []*rbacv1.ClusterRoleBinding {
	return []*rbacv1.ClusterRoleBinding{
		// A node's service proxy, which has the node's identity.
		bind("brink:node-proxier", "system:node-proxier", rbacv1.GroupKind, nodeuser.Group),
		// A machine with a join token asks for its first certificate.
		bind("brink:node-bootstrapper", "system:node-bootstrapper", rbacv1.GroupKind, token.Group),
		bind(nodeRole().Name, nodeRole().Name, rbacv1.GroupKind, nodeuser.Group),
	}
}

func bind(name, role, kind, subject string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: kind, APIGroup: rbacv1.GroupName, Name: subject}},
	}
}

// nodeRole lets brink's agents use brink's own paths: they keep a tunnel there.
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
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: nodeuser.Group}},
	}
}

// joinLevel is the share of the API server for machines that join: enough for a hundred of
// them a minute, and bounded so that they cannot hold up anybody else. Each token has its own
// queues, so that a misused one does not keep machines with other tokens from joining.
func joinLevel() *flowcontrolv1.PriorityLevelConfiguration {
	shares, lendable := int32(10), int32(50)
	return &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "brink-join"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
			Type: flowcontrolv1.PriorityLevelEnablementLimited,
			Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
				NominalConcurrencyShares: &shares,
				LendablePercent:          &lendable,
				LimitResponse: flowcontrolv1.LimitResponse{
					Type:    flowcontrolv1.LimitResponseTypeQueue,
					Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 64, HandSize: 4, QueueLengthLimit: 50},
				},
			},
		},
	}
}

// joinFlow puts all requests by join tokens into joinLevel.
func joinFlow() *flowcontrolv1.FlowSchema {
	return &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: joinLevel().Name},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: joinLevel().Name},
			MatchingPrecedence:         400,
			DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
			Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
				Subjects: []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: token.Group}}},
				ResourceRules: []flowcontrolv1.ResourcePolicyRule{{
					Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"},
				}},
				NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
			}},
		},
	}
}

// objects are the methods of a typed client that ensureObject needs.
type objects[T any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	Create(ctx context.Context, object T, opts metav1.CreateOptions) (T, error)
}

// ensureObject makes an object that is missing. An object that exists is the user's and stays.
func ensureObject[T metav1.Object](ctx context.Context, all objects[T], want T) error {
	_, err := all.Get(ctx, want.GetName(), metav1.GetOptions{})
	return ifMissing(err, func() error {
		_, err := all.Create(ctx, want, metav1.CreateOptions{})
		return err
	})
}

// nodeAccess returns functions that make the objects by which nodes, and machines that join,
// have their rights. The keys say what each makes.
func nodeAccess(client kubernetes.Interface) map[string]func(context.Context) error {
	rbac, flow := client.RbacV1(), client.FlowcontrolV1()
	role, binding := clusterConfigRole(), clusterConfigBinding()
	out := map[string]func(context.Context) error{
		"PriorityLevelConfiguration " + joinLevel().Name: func(ctx context.Context) error {
			return ensureObject(ctx, flow.PriorityLevelConfigurations(), joinLevel())
		},
		"FlowSchema " + joinFlow().Name:  func(ctx context.Context) error { return ensureObject(ctx, flow.FlowSchemas(), joinFlow()) },
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

package kubelet

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	cloudproviderapi "k8s.io/cloud-provider/api"
)

// registering is a client that completes a Node when it is created: with its addresses
// from the first moment, and without the taint by which upstream keeps pods away until a
// cloud provider has initialized it.
type registering struct {
	kubernetes.Interface
	registration
}

// registration is what happens when a Node is created.
type registration struct {
	complete func(*corev1.Node)
	tell     func(refused error)
}

func (c registering) CoreV1() typedcorev1.CoreV1Interface {
	return registeringCore{c.Interface.CoreV1(), c.registration}
}

type registeringCore struct {
	typedcorev1.CoreV1Interface
	registration
}

func (c registeringCore) Nodes() typedcorev1.NodeInterface {
	return registeringNodes{c.CoreV1Interface.Nodes(), c.registration}
}

type registeringNodes struct {
	typedcorev1.NodeInterface
	registration
}

// Create completes and creates the Node. It passes on the reason of a refusal, which
// upstream does not log: it assumes that the Node exists.
func (n registeringNodes) Create(ctx context.Context, node *corev1.Node, opts metav1.CreateOptions) (*corev1.Node, error) {
	node = node.DeepCopy()
	isWaiting := func(t corev1.Taint) bool { return t.Key == cloudproviderapi.TaintExternalCloudProvider }
	node.Spec.Taints = slices.DeleteFunc(node.Spec.Taints, isWaiting)
	delete(node.Annotations, cloudproviderapi.AnnotationAlphaProvidedIPAddr) // for providers, and wrong once the addresses change
	n.complete(node)
	made, err := n.NodeInterface.Create(ctx, node, opts)
	if (apierrors.IsForbidden(err) || apierrors.IsInvalid(err)) && n.tell != nil {
		n.tell(err)
	}
	return made, err
}

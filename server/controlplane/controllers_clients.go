package controlplane

import (
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/controller-manager/pkg/clientbuilder"
	"k8s.io/klog/v2"

	"brink/server/inmemory"
)

// controllerClients builds clients that act as the controllers' own service accounts, so
// that each controller has the rights of its RBAC role and no more. Upstream issues and renews
// a token for each. In one process it is enough to assert the identity.
type controllerClients struct{ api *inmemory.Server }

var _ clientbuilder.ControllerClientBuilder = controllerClients{}

func (b controllerClients) Config(name string) (*rest.Config, error) {
	account := serviceaccount.UserInfo("kube-system", name, "")
	config := b.api.Config(identity(account.GetName(), account.GetGroups()...))
	return rest.AddUserAgent(config, name), nil
}

func (b controllerClients) ConfigOrDie(name string) *rest.Config {
	config, err := b.Config(name)
	orDie(name, err)
	return config
}

func (b controllerClients) Client(name string) (kubernetes.Interface, error) {
	config, err := b.Config(name)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func (b controllerClients) ClientOrDie(name string) kubernetes.Interface {
	client, err := b.Client(name)
	orDie(name, err)
	return client
}

func (b controllerClients) DiscoveryClient(name string) (discovery.DiscoveryInterface, error) {
	config, err := b.Config(name)
	if err != nil {
		return nil, err
	}
	return discovery.NewDiscoveryClientForConfig(config)
}

func (b controllerClients) DiscoveryClientOrDie(name string) discovery.DiscoveryInterface {
	client, err := b.DiscoveryClient(name)
	orDie(name, err)
	return client
}

// orDie panics on an error, which the interface cannot return. lifecycle turns a component's
// panic into its error.
func orDie(name string, err error) {
	if err != nil {
		klog.ErrorS(err, "building a client", "controller", name)
		panic(err)
	}
}

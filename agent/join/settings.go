package join

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/internal/atomicfile"
	"brink/internal/clusterconfig"
)

// settings reads what the cluster tells its nodes, and writes down the CA of
// those who may call this one's kubelet.
func (j *Join) settings(ctx context.Context) (clusterconfig.Config, error) {
	none := clusterconfig.Config{}
	client, err := kubernetes.NewForConfig(j.API(""))
	if err != nil {
		return none, err
	}
	object, err := client.CoreV1().ConfigMaps(clusterconfig.Namespace).Get(ctx, clusterconfig.Name, metav1.GetOptions{})
	if apierrors.IsUnauthorized(err) {
		return none, fmt.Errorf("the servers do not accept this node's certificate: if the cluster was made anew, brink uninstall and join again: %w", err)
	}
	if err != nil {
		return none, err
	}
	settings, err := clusterconfig.Decode(object.Data[clusterconfig.Key])
	if err != nil {
		return none, fmt.Errorf("ConfigMap %s/%s: %w", clusterconfig.Namespace, clusterconfig.Name, err)
	}
	return settings, atomicfile.Keep(j.cfg.Layout.ClientCA(), []byte(settings.ClientCA), 0o600)
}

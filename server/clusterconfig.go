package server

import (
	"context"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/internal/wire/clusterconfig"
	"brink/server/pki"
)

// managedBy is the annotation that explains to users why a change of theirs was undone.
const managedBy = "brink.io/comment"

// writeClusterConfig writes what nodes must know about the cluster, as this server's
// flags say it. Unlike a role, it is not the user's to change: the flags are, because
// nodes have to agree with what servers do.
func (s *Server) writeClusterConfig(ctx context.Context, client kubernetes.Interface) error {
	want, err := s.clusterConfig()
	if err != nil {
		return err
	}
	maps := client.CoreV1().ConfigMaps(clusterconfig.Namespace)
	has, err := maps.Get(ctx, clusterconfig.Name, metav1.GetOptions{})
	if err != nil {
		return ifMissing(err, func() error {
			_, err := maps.Create(ctx, want, metav1.CreateOptions{})
			return err
		})
	}
	if has.Data[clusterconfig.Key] == want.Data[clusterconfig.Key] {
		return nil
	}
	has.Data = want.Data
	metav1.SetMetaDataAnnotation(&has.ObjectMeta, managedBy, want.Annotations[managedBy])
	_, err = maps.Update(ctx, has, metav1.UpdateOptions{})
	return err
}

func (s *Server) clusterConfig() (*corev1.ConfigMap, error) {
	ca, err := os.ReadFile(pki.Dir(s.cfg.Layout.TLS()).ClientCA())
	if err != nil {
		return nil, fmt.Errorf("reading the client CA: %w", err)
	}
	text, err := clusterconfig.Config{
		ClusterCIDRs: s.cfg.ClusterCIDRs, ServiceCIDRs: s.cfg.ServiceCIDRs, ClusterDNS: s.cfg.ClusterDNS,
		ClusterDomain: s.cfg.ClusterDomain, NetworkBackend: s.cfg.NetworkBackend, ClientCA: string(ca),
	}.Encode()
	if err != nil {
		return nil, err
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: clusterconfig.Namespace, Name: clusterconfig.Name,
			Annotations: map[string]string{managedBy: "brink server writes this at every start, from its flags"},
		},
		Data: map[string]string{clusterconfig.Key: text},
	}, nil
}

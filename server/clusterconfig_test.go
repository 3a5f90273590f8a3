package server

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"brink/internal/layout"
	"brink/internal/wire/clusterconfig"
	"brink/network/nodeaddr"
	"brink/server/pki"
)

// planned is a server that does not run, with the files that its certificates
// part would have made.
func planned(t *testing.T) *Server {
	t.Helper()
	l := layout.New(t.TempDir())
	s := &Server{cfg: Config{
		Layout: l, NodeName: "hub", Addresses: nodeaddr.Given(netip.MustParseAddr("192.0.2.1")),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		ClusterDNS: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ClusterDomain: "cluster.local", NetworkBackend: "vxlan",
	}}
	s.certify(t)
	return s
}

func (s *Server) certify(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(s.cfg.Layout.TLS()); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Ensure(s.cfg.pki(nil)); err != nil {
		t.Fatal(err)
	}
}

// written has s write the settings and returns what the cluster has then.
func (s *Server) written(t *testing.T, client *fake.Clientset) (clusterconfig.Config, *corev1.ConfigMap) {
	t.Helper()
	if err := s.writeClusterConfig(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	has, err := client.CoreV1().ConfigMaps(clusterconfig.Namespace).Get(t.Context(), clusterconfig.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clusterconfig.Decode(has.Data[clusterconfig.Key])
	if err != nil {
		t.Fatal(err)
	}
	return config, has
}

func TestClusterConfig(t *testing.T) {
	t.Parallel()
	s, client := planned(t), fake.NewClientset()
	first, _ := s.written(t, client)
	ca, err := os.ReadFile(pki.Dir(s.cfg.Layout.TLS()).ClientCA())
	if err != nil {
		t.Fatal(err)
	}
	want := clusterconfig.Config{
		ClusterCIDRs: s.cfg.ClusterCIDRs, ServiceCIDRs: s.cfg.ServiceCIDRs, ClusterDNS: s.cfg.ClusterDNS,
		ClusterDomain: "cluster.local", NetworkBackend: "vxlan", ClientCA: string(ca),
	}
	if !reflect.DeepEqual(first, want) {
		t.Errorf("got %+v\nwant %+v", first, want)
	}
	client.ClearActions()
	s.written(t, client)
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("unchanged settings are written: %s", a.GetVerb())
		}
	}
	s.cfg.NetworkBackend = "host-gw"
	if got, _ := s.written(t, client); got.NetworkBackend != "host-gw" {
		t.Errorf("after a change of flags the backend is %s", got.NetworkBackend)
	}
}

// TestEditedClusterConfig: the flags win over an edit, and the ConfigMap says so.
func TestEditedClusterConfig(t *testing.T) {
	t.Parallel()
	s, client := planned(t), fake.NewClientset()
	_, edited := s.written(t, client)
	edited.Data = map[string]string{clusterconfig.Key: "{}", "more": "x"}
	edited.Annotations = nil
	edited.Labels = map[string]string{"own": "label"}
	if _, err := client.CoreV1().ConfigMaps(clusterconfig.Namespace).Update(t.Context(), edited, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	got, restored := s.written(t, client)
	if got.NetworkBackend != "vxlan" || len(restored.Data) != 1 {
		t.Errorf("an edit lives on: %v", restored.Data)
	}
	if !strings.Contains(restored.Annotations[managedBy], "from its flags") || restored.Labels["own"] == "" {
		t.Errorf("annotations are %v, labels %v", restored.Annotations, restored.Labels)
	}
}

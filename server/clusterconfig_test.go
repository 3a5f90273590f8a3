package server

import (
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

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

func TestClusterConfig(t *testing.T) {
	t.Parallel()
	s, client := planned(t), fake.NewClientset()
	maps := client.CoreV1().ConfigMaps(clusterconfig.Namespace)
	read := func() clusterconfig.Config {
		t.Helper()
		if err := s.writeClusterConfig(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		has, err := maps.Get(t.Context(), clusterconfig.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		config, err := clusterconfig.Decode(has.Data[clusterconfig.Key])
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	first := read()
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
	read()
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("what is as it should be is written: %s", a.GetVerb())
		}
	}
	s.cfg.NetworkBackend = "host-gw"
	if got := read().NetworkBackend; got != "host-gw" {
		t.Errorf("after a change of flags the backend is %s", got)
	}
	edited, err := maps.Get(t.Context(), clusterconfig.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	edited.Data = map[string]string{clusterconfig.Key: "{}", "more": "x"}
	edited.Annotations = nil
	edited.Labels = map[string]string{"own": "label"}
	if _, err := maps.Update(t.Context(), edited, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := read().NetworkBackend; got != "host-gw" {
		t.Errorf("an edit lives on: %s", got)
	}
	mended, err := maps.Get(t.Context(), clusterconfig.Name, metav1.GetOptions{})
	if err != nil || !strings.Contains(mended.Annotations[managedBy], "from its flags") || mended.Labels["own"] == "" {
		t.Errorf("got %+v, %v", mended, err)
	}
}

// Roles are made when missing and left alone when somebody has changed them.
func TestAccess(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	for range 2 {
		for what, make := range nodeAccess(client) {
			if err := make(t.Context()); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	creates := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "create" {
			creates++
		}
	}
	if want := len(nodeBindings()) + 5; creates != want {
		t.Errorf("created %d objects in two starts, want %d", creates, want)
	}
	for _, b := range nodeBindings() {
		if strings.HasSuffix(b.RoleRef.Name, "nodeclient") {
			t.Errorf("%s lets upstream approve any name, or renewals that no record knows of", b.Name)
		}
	}
}

package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/datastore"
	"brink/internal/lifecycle"
	"brink/internal/testwait"
	"brink/server/pki"
)

// startAPIServer runs an API server over a datastore of its own until the test
// ends. Upstream's metrics are the process's: only one can be run in it.
func startAPIServer(t *testing.T, change func(*ControlPlane)) *ControlPlane {
	t.Helper()
	return startAPIServerIn(t, t.TempDir(), change)
}

// startAPIServerIn keeps its state in a directory, which may have some.
func startAPIServerIn(t *testing.T, dir string, change func(*ControlPlane)) *ControlPlane {
	t.Helper()
	loopback := netip.MustParseAddr("127.0.0.1")
	tls := pki.Dir(filepath.Join(dir, "tls"))
	_, err := pki.Ensure(pki.Config{Dir: string(tls), ClusterDomain: "cluster.local", NodeName: "node-1",
		NodeIPs: []netip.Addr{loopback}, ServiceIPs: []netip.Addr{netip.MustParseAddr("10.43.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	store, err := datastore.New(datastore.Config{Dir: filepath.Join(dir, "db"), SocketDir: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Prepare(); err != nil {
		t.Fatal(err)
	}
	cfg := plausible()
	cfg.BindAddress, cfg.Port, cfg.Files = loopback, freePort(t), files(tls)
	cfg.DurableEndpoint, cfg.VolatileEndpoint = store.DurableEndpoint(), store.VolatileEndpoint()
	cp, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	change(cp)
	group := &lifecycle.Group{}
	group.Add(store.Durable(), store.Volatile(), lifecycle.Component{Name: "apiserver", Run: cp.RunAPIServer, StopTimeout: APIServerStopTimeout})
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- group.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return cp
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestOpenAPIComesAndGoes asks for the documents, waits until they are let go of,
// and asks again. What upstream keeps of them must go, and what else was made of
// the same definitions must stay.
func TestOpenAPIComesAndGoes(t *testing.T) {
	cp := startAPIServer(t, func(cp *ControlPlane) { cp.apiServer.openAPI.documents.idle = 3 * time.Second })
	o := cp.apiServer.openAPI
	config := cp.ClientConfig("tester", "system:masters")
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if o.kube.current.Load() != nil {
		t.Error("the documents are made though nobody has asked")
	}
	for _, name := range []string{"early", "late"} { // before there are documents, and after they have gone
		makeCRD(t, config, name)
		testwait.UntilNil(t, "the documents describe all", func() error { return describes(client, "apis/"+name+".brink.test/v1", "io.k8s.api.apps.v1.Deployment") })
		testwait.UntilNil(t, "the documents are let go of", func() error {
			if o.kube.current.Load() != nil || o.extensions.current.Load() != nil {
				return errors.New("they are there")
			}
			return nil
		})
		for _, format := range []string{"application/json", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"} {
			if kept := o.ask("/openapi/v2", format); len(kept) > 300<<10 || strings.Contains(kept, "Deployment") {
				t.Errorf("the aggregator keeps %d bytes of %s", len(kept), format)
			}
		}
		applyConfigMap(t, client, name)
	}
}

// describes is nil when the list of documents has a path and the big one, made
// for older clients, a kind.
func describes(client kubernetes.Interface, path, kind string) error {
	paths, err := client.Discovery().OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	if paths[path] == nil {
		return fmt.Errorf("%s is not among %d documents", path, len(paths))
	}
	if _, err := paths[path].Schema("application/json"); err != nil {
		return err
	}
	old, err := client.Discovery().OpenAPISchema()
	if err != nil {
		return err
	}
	for _, d := range old.GetDefinitions().GetAdditionalProperties() {
		if d.GetName() == kind {
			return nil
		}
	}
	return fmt.Errorf("%s is not among %d kinds", kind, len(old.GetDefinitions().GetAdditionalProperties()))
}

// makeCRD makes a kind Thing in the group NAME.brink.test.
func makeCRD(t *testing.T, config *rest.Config, name string) {
	t.Helper()
	client, err := crdclient.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	group, preserve := name+".brink.test", true
	crd := &crdv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "things." + group},
		Spec: crdv1.CustomResourceDefinitionSpec{
			Group: group, Scope: crdv1.ClusterScoped,
			Names: crdv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList"},
			Versions: []crdv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &crdv1.CustomResourceValidation{
				OpenAPIV3Schema: &crdv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &preserve},
			}}},
		},
	}
	if _, err := client.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// applyConfigMap merges fields by the rules that were made at the start.
func applyConfigMap(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	for manager, key := range map[string]string{"one": "a", "two": "b"} {
		config := applycorev1.ConfigMap(name, "default").WithData(map[string]string{key: manager})
		if _, err := client.CoreV1().ConfigMaps("default").Apply(t.Context(), config, metav1.ApplyOptions{FieldManager: manager}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || len(got.Data) != 2 {
		t.Errorf("two appliers have made %v (%v)", got.Data, err)
	}
}

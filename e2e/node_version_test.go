package e2e

import (
	"encoding/json"
	"testing"

	"brink/internal/release"
)

// TestVersionIsTold: brink, the API server and the kubelet tell one version.
func TestVersionIsTold(t *testing.T) {
	ns := sharedNamespace(t)
	n := ns.node
	ask := func(argv ...string) string {
		t.Helper()
		r, err := n.Brink(argv...)
		if err != nil || r.Code != 0 {
			t.Fatalf("brink %v: %v %v", argv, err, r)
		}
		return r.Stdout
	}
	var built struct{ Brink string }
	if err := json.Unmarshal([]byte(ask("version", "-o", "json")), &built); err != nil {
		t.Fatal(err)
	}
	if _, err := release.ParseVersion(built.Brink); err != nil {
		t.Fatal(err)
	}
	var api struct{ Major, Minor, GitVersion string }
	if err := json.Unmarshal([]byte(ask("kubectl", "--kubeconfig", n.Kubeconfig(), "get", "--raw", "/version")), &api); err != nil {
		t.Fatal(err)
	}
	ns.mustEqual("the API server's version", api.GitVersion, built.Brink)
	ns.mustEqual("its minor version", api.Major+"."+api.Minor, "1.36")
	kubelet := ask("kubectl", "--kubeconfig", n.Kubeconfig(), "get", "node", n.ID, "-o", "jsonpath={.status.nodeInfo.kubeletVersion}")
	ns.mustEqual("the kubelet's version", kubelet, built.Brink)
	clients := ask("kubectl", "--kubeconfig", n.Kubeconfig(), "version")
	ns.mustContain(clients, "Client Version: "+built.Brink, "Server Version: "+built.Brink)
}

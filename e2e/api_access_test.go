package e2e

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"brink/e2e/machine"
)

// status is the HTTP status of a request from a network, with a token or none.
// Whose certificate the server has is not the question here.
func (ns *namespace) status(from machine.Netns, url, token string) int {
	ns.Helper()
	client := from.Client()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	req, err := http.NewRequestWithContext(ns.Context(), http.MethodGet, url, nil)
	if err != nil {
		ns.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		ns.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestAnonymous(t *testing.T) {
	ns := sharedNamespace(t)
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	api := "https://" + ns.node.Addr.String() + ":6443"
	for _, path := range []string{"/api/v1/namespaces", "/api/v1/namespaces/kube-system/secrets", "/apis", "/metrics", "/debug/pprof/"} {
		code := ns.status(sw.Netns(), api+path, "")
		if code != http.StatusUnauthorized && code != http.StatusForbidden {
			t.Errorf("anonymous GET %s: %d, want 401 or 403", path, code)
		}
	}
	ns.mustEqual("the answer to a made-up token", ns.status(sw.Netns(), api+"/api/v1/namespaces", "made.up.token"), http.StatusUnauthorized)
}

const reach = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: pods}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: pods}
subjects: [{kind: ServiceAccount, name: robot, namespace: $NS}]
---
apiVersion: v1
kind: Pod
metadata: {name: robot}
spec:
  serviceAccountName: robot
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "e2e.local/server:1"}]
`

// TestServiceAccount asks from inside a pod, with what the kubelet mounted there,
// through the kubernetes Service.
func TestServiceAccount(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(reach)
	ns.readyPod("robot")
	for _, tc := range []struct{ path, want string }{
		{"/api/v1/namespaces/" + ns.name + "/pods", "200"},
		{"/api/v1/namespaces/" + ns.name + "/secrets", "403"},
		{"/api/v1/namespaces/default/pods", "403"},
		{"/api/v1/nodes", "403"},
	} {
		out := lines(ns.exec("robot", "/server", "api", tc.path))
		ns.mustEqual("the status of "+tc.path, out[0], tc.want)
	}
	ns.kubectl("delete", "rolebinding", "robot")
	ns.eventually("the right to be gone", func() error {
		out := lines(ns.exec("robot", "/server", "api", "/api/v1/namespaces/"+ns.name+"/pods"))
		if out[0] != "403" {
			return fmt.Errorf("the status is %s", out[0])
		}
		return nil
	})
}

// TestKubeletPort asks the kubelet from another machine.
func TestKubeletPort(t *testing.T) {
	ns := sharedNamespace(t)
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	from, addr := sw.Netns(), ns.node.Addr.String()
	token := strings.TrimSpace(ns.kubectl("create", "token", "default"))
	for _, path := range []string{"/pods", "/metrics", "/logs/", "/exec/x/y/z", "/configz"} {
		url := "https://" + addr + ":10250" + path
		ns.mustEqual("a stranger's GET "+path, ns.status(from, url, ""), http.StatusUnauthorized)
		ns.mustEqual("a service account's GET "+path, ns.status(from, url, token), http.StatusForbidden)
	}
	ns.kubectl("create", "clusterrolebinding", ns.name, "--clusterrole=system:kubelet-api-admin", "--serviceaccount="+ns.name+":default")
	t.Cleanup(func() { _, _ = ns.tryKubectl("delete", "clusterrolebinding", ns.name) })
	ns.eventually("GET /pods of an account with the right", func() error {
		if code := ns.status(from, "https://"+addr+":10250/pods", token); code != http.StatusOK {
			return fmt.Errorf("it is %d", code)
		}
		return nil
	})
	// The kubelet's read-only port and ports that serve without asking who it is.
	for _, port := range []string{"10255", "10248", "10249", "8080", "2379"} {
		if conn, err := from.Dial(t.Context(), "tcp", addr+":"+port); err == nil {
			_ = conn.Close()
			t.Errorf("port %s is open to other machines", port)
		}
	}
}

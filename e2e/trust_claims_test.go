package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agenttunnel "brink/agent/tunnel"
	"brink/e2e/machine"
)

const aggregated = `
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {ports: [{port: 443, targetPort: $PORT}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
ports: [{port: $PORT}]
endpoints: [{addresses: [$HOST]}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.$NS.example.org}
spec:
  group: $NS.example.org
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {namespace: $NS, name: outside}
`

// TestClaimsDrawNoTraffic: a node that says that it is somewhere or somebody else gets
// nothing that is for others.
func TestClaimsDrawNoTraffic(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	n := c.join(t, 1)[0]
	ns := newNamespace(t, c.server)
	asks := ns.aggregates()

	// A machine that speaks as a node, from the address of another one.
	liar := newJoiner(t, c.server, c.server.newToken(t))
	name := "liar-" + machine.RandomID()
	certificate := liar.joins(name)
	as := liar.asNodeFrom(n.Netns(), certificate)
	liar.registers(as, name, n.Addr.Next().String())
	t.Cleanup(func() {
		_ = c.server.Client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	claims := func(addresses string) error {
		patch := `{"status":{"addresses":[` + addresses + `]}}`
		_, err := as.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		return err
	}
	address := func(kind, value string) string { return fmt.Sprintf(`{"type":%q,"address":%q}`, kind, value) }
	own := address("Hostname", name)
	if err := claims(address("InternalIP", lanHost) + "," + own); err != nil {
		t.Fatalf("a claim that nobody can judge: %v", err)
	}
	liar.keepsTunnel(n.Netns(), certificate)
	ns.eventually("the liar's tunnel", func() error { return ns.hasTunnel(name) })
	for range 10 {
		if err := asks(); err != nil {
			t.Fatalf("the aggregated API after a node said that it has its address: %v", err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	for what, claim := range map[string]string{
		"another node's name":     address("Hostname", n.ID),
		"an address as its name":  address("Hostname", c.server.Addr.String()),
		"another DNS name":        own + "," + address("InternalDNS", n.ID),
		"the server's address":    own + "," + address("InternalIP", c.server.Addr.String()),
		"everybody's":             own + "," + address("InternalIP", "255.255.255.255"),
		"another node's, by name": own + "," + address("ExternalDNS", n.ID),
	} {
		if err := claims(claim); !apierrors.IsForbidden(err) {
			t.Errorf("a node claims %s: %v, want it forbidden", what, err)
		}
	}
	ns.mustEqual("what answers for the other node", ns.kubectl("get", "--raw", "/api/v1/nodes/"+n.ID+"/proxy/healthz"), "ok")
}

// hasTunnel returns nil when the API server asks a node through its tunnel, in vain: no kubelet
// is behind it.
func (ns *namespace) hasTunnel(node string) error {
	_, err := ns.tryKubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/healthz")
	if err == nil || strings.Contains(err.Error(), "no tunnel") {
		return fmt.Errorf("it does not answer yet: %v", err)
	}
	return nil
}

// aggregates has the API server pass an API group on to a web server on the switch, and
// returns what asks for it.
func (ns *namespace) aggregates() (asks func() error) {
	ns.Helper()
	web := newCA(ns.T, time.Now())
	endpoint := serveOnLAN(ns.T, web, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Connection", "close") // the next request is routed anew
		_, _ = io.WriteString(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"`+ns.name+`.example.org/v1","resources":[]}`)
	}))
	port := endpoint[strings.LastIndex(endpoint, ":")+1:]
	ns.apply(strings.NewReplacer("$PORT", port, "$HOST", lanHost).Replace(aggregated))
	ns.Cleanup(func() { _, _ = ns.tryKubectl("delete", "apiservice", "v1."+ns.name+".example.org") })
	asks = func() error {
		out, err := ns.tryKubectl("get", "--raw", "/apis/"+ns.name+".example.org/v1")
		return errors.Join(err, contains(out, "APIResourceList"))
	}
	ns.eventually("the aggregated API", asks)
	return asks
}

// keepsTunnel opens a tunnel from a network until the test ends. It is believed to
// have every address.
func (j *joiner) keepsTunnel(from machine.Netns, csr *certificatesv1.CertificateSigningRequest) {
	j.t.Helper()
	r := &removed{t: j.t, server: j.node, pair: append(csr.Status.Certificate, j.keyPEM()...)}
	tunnels := agenttunnel.New(agenttunnel.Config{TLS: r.tls, Dial: from.Dial})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = tunnels.Run(ctx, func() {}) }()
	tunnels.SetServers([]string{j.node.Addr.String() + ":6443"})
	j.t.Cleanup(func() { cancel(); <-ended })
}

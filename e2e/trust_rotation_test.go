package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"brink/e2e/machine"
)

// TestCertificatesRotate has certificates of two minutes. While they are renewed
// again and again nothing that goes from the server to the node or from the node
// to the server fails: the API server's audit log has what it answered.
func TestCertificatesRotate(t *testing.T) {
	t.Parallel()
	server := prepareNode(t)
	log := server.audits(t)
	if err := errors.Join(server.Configure("kube-controller-manager-arg", "[cluster-signing-duration=2m]"), server.Start()); err != nil {
		t.Fatal(err)
	}
	c := &cluster{server: server}
	n := c.join(t, 1)[0]
	ns := newNamespace(t, c.server)
	ns.nodeIs(n, corev1.ConditionTrue)
	ns.apply(strings.Replace(sleeper("box", ""), "  containers:", "  nodeName: "+n.ID+"\n  containers:", 1))
	ns.readyPod("box")
	ns.eventually("the kubelet to have its certificate", func() error { return n.kubeletAnswers(t) })

	// What is open lives on, with the certificates of when it was opened.
	stream, out := ns.background("exec", "box", "--", "sh", "-c", "while echo tick; do sleep 1; done")
	if err := stream.Start(); err != nil {
		t.Fatal(err)
	}
	ns.eventually("a tick", func() error { return out.has("tick") })
	begun := time.Now()
	n.answersThroughRotations(t)
	ticks := strings.Count(out.String(), "tick\n")
	ns.eventually("a stream that was opened before to go on", func() error {
		if now := strings.Count(out.String(), "tick\n"); now <= ticks {
			return fmt.Errorf("%d ticks in %v:\n%s", now, time.Since(begun), out)
		}
		return nil
	})
	_ = stream.Process.Signal(os.Interrupt)
	_ = ns.ended(stream, out)
	if said := machine.Tail(n.LogFile("err", n.Starts), 1<<20); strings.Contains(said, "Unauthorized") || strings.Contains(said, "expired") {
		t.Errorf("the node was refused\n%s", said)
	}
	n.wasNeverRefused(t, log, begun)
	begun = time.Now()
	ns.eventually("a heartbeat", func() error { return n.beats(t, begun) })
}

// answersThroughRotations asks the kubelet until the node and its kubelet have had three
// certificates, and those of the beginning have long expired.
func (n *node) answersThroughRotations(t *testing.T) {
	t.Helper()
	clients, servers := map[string]bool{}, map[string]bool{}
	asked, failures := 0, []string(nil)
	expired := time.Now().Add(150 * time.Second) // certificates of two minutes
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && (len(clients) < 3 || len(servers) < 3 || time.Now().Before(expired)); {
		clients[n.nodeCertificate(t)] = true
		served, err := n.servingCertificate(t)
		if err == nil {
			servers[served] = true
		}
		asked++
		if err := errors.Join(err, n.kubeletAnswers(t)); err != nil {
			failures = append(failures, time.Now().Format(time.TimeOnly)+" "+err.Error())
		}
		time.Sleep(200 * time.Millisecond)
	}
	if len(clients) < 3 || len(servers) < 3 {
		t.Errorf("%d client and %d serving certificates in %v", len(clients), len(servers), patience)
	}
	if len(failures) > 0 {
		t.Errorf("of %d requests failed:\n%s", asked, strings.Join(failures, "\n"))
	}
}

// wasNeverRefused reads the audit log for answers that a node, or someone unknown, got
// since then.
func (n *node) wasNeverRefused(t *testing.T, log string, since time.Time) {
	t.Helper()
	all, err := readAudit(log)
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for _, r := range all {
		if r.User.Username == "system:node:"+n.ID {
			answered++
		} else if r.User.Username != "" { // the rejected have no name
			continue
		}
		if code := r.ResponseStatus.Code; (code == 401 || code >= 500) && r.RequestReceivedTimestamp.After(since) {
			t.Errorf("%q, %s of %v, was answered with %d", r.User.Username, r.Verb, r.ObjectRef, code)
		}
	}
	if answered < 10 {
		t.Errorf("the audit log has %d requests of the node, this test shows nothing", answered)
	}
}

// kubeletAnswers asks the node's kubelet through the API server.
func (n *node) kubeletAnswers(t *testing.T) error {
	t.Helper()
	return n.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(n.ID).SubResource("proxy").Suffix("healthz").Do(t.Context()).Error()
}

// nodeCertificate is the serial number of the one with which the node speaks.
func (n *node) nodeCertificate(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(n.Layout().KubeletCerts(), "kubelet-client-current.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatalf("the certificate file is %q", text)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.SerialNumber.String()
}

// servingCertificate is the serial number of the kubelet's, which must be valid for
// the node's name by the cluster's CA.
func (n *node) servingCertificate(t *testing.T) (string, error) {
	t.Helper()
	cert, err := n.verifiedKubelet(t)
	if err != nil {
		return "", err
	}
	return cert.SerialNumber.String(), nil
}

func (n *node) verifiedKubelet(t *testing.T) (*x509.Certificate, error) {
	t.Helper()
	bundle, err := os.ReadFile(filepath.Join(n.Server.Layout().TLS(), "kubelet-ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	conn, err := n.Server.Netns().Dial(t.Context(), "tcp", n.Addr.String()+":10250")
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	client := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: n.ID})
	if err := client.HandshakeContext(t.Context()); err != nil {
		return nil, fmt.Errorf("the kubelet's certificate: %w", err)
	}
	return client.ConnectionState().PeerCertificates[0], nil
}

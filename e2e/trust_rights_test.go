package e2e

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/e2e/machine"
)

// removed is a machine that was a node: what it knows by the certificate of then.
type removed struct {
	t      *testing.T
	server *node
	name   string
	pair   []byte // certificate and key, PEM
	client kubernetes.Interface
}

// remembers takes what a node speaks by, as whoever has its disk can.
func (n *node) remembers(t *testing.T) *removed {
	t.Helper()
	pair, err := os.ReadFile(filepath.Join(n.Layout().KubeletCerts(), "kubelet-client-current.pem"))
	if err != nil {
		t.Fatal(err)
	}
	r := &removed{t: t, server: &node{n.Server}, name: n.ID, pair: pair}
	config, err := n.Server.RestConfig()
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.CertData, config.KeyData = pair, pair
	if r.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return r
}

// tls is its side of TLS to the server.
func (r *removed) tls() (*tls.Config, error) {
	pair, err := tls.X509KeyPair(r.pair, r.pair)
	if err != nil {
		return nil, err
	}
	bundle, err := os.ReadFile(r.server.tls().ServerCA())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "kubernetes"}, nil
}

// tunnel asks the server for a tunnel and returns the status of the answer.
func (r *removed) tunnel() (int, error) {
	config, err := r.tls()
	if err != nil {
		return 0, err
	}
	raw, err := r.server.Netns().Dial(r.t.Context(), "tcp", r.server.Addr.String()+":6443")
	if err != nil {
		return 0, err
	}
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, config)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "GET /brink/v1/tunnel HTTP/1.1\r\nHost: kubernetes\r\nConnection: Upgrade\r\nUpgrade: brink-tunnel\r\n\r\n"); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}

// rightsEnd is how long after its deletion a node may still be answered.
const rightsEnd = 10 * time.Second

// isRefusedSoon waits for the API's refusal, from the deletion on.
func (r *removed) isRefusedSoon() {
	r.t.Helper()
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		_, err := r.client.CoreV1().Nodes().Get(r.t.Context(), r.name, metav1.GetOptions{})
		took := time.Since(begun)
		if apierrors.IsUnauthorized(err) && took <= rightsEnd {
			r.t.Logf("refused %v after the deletion", took.Round(time.Millisecond))
			return
		}
		if took > rightsEnd {
			r.t.Fatalf("%v after its deletion the node is answered %v, want it unauthorized within %v", took, err, rightsEnd)
		}
	}
}

// isOut returns nil when nothing that the machine asks for is answered with more than 401.
func (r *removed) isOut(ns *namespace, secret string) error {
	ctx := r.t.Context()
	core := r.client.CoreV1()
	_, nodes := core.Nodes().List(ctx, metav1.ListOptions{})
	_, own := core.Nodes().Get(ctx, r.name, metav1.GetOptions{})
	_, services := core.Services("").List(ctx, metav1.ListOptions{})
	_, value := core.Secrets(ns.name).Get(ctx, secret, metav1.GetOptions{})
	_, version := r.client.Discovery().ServerVersion()
	j := &joiner{t: r.t, node: r.server, key: newPassword(r.t), private: newKey(r.t)}
	csr := j.request(x509.CertificateRequest{Subject: nodeSubject(r.name)}, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
	_, renewal := r.client.CertificatesV1().CertificateSigningRequests().Create(ctx, csr, metav1.CreateOptions{})
	for what, err := range map[string]error{
		"listing nodes": nodes, "its Node": own, "Services": services, "a Secret": value, "the version": version, "renewing": renewal,
	} {
		if !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("%s: %v, want it unauthorized", what, err)
		}
	}
	if status, err := r.tunnel(); err != nil || status != http.StatusUnauthorized {
		return fmt.Errorf("a tunnel: %d, %v, want %d", status, err, http.StatusUnauthorized)
	}
	return nil
}

// watches holds a watch open; the channel is closed when it has ended.
func (r *removed) watches() <-chan struct{} {
	r.t.Helper()
	w, err := r.client.CoreV1().Services("").Watch(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range w.ResultChan() { // until it is closed
		}
	}()
	return ended
}

const withSecret = `
apiVersion: v1
kind: Secret
metadata: {name: till}
stringData: {value: of-the-successor}
---
apiVersion: v1
kind: Pod
metadata: {name: successor}
spec:
  nodeName: $NODE
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "echo the successor; sleep 100000"]
    env: [{name: VALUE, valueFrom: {secretKeyRef: {name: till, key: value}}}]
`

// deletedText is what a deleted node says.
const deletedText = "was deleted from the cluster"

// TestDeletedNodeHasNoRights takes a node out of the cluster while its machine runs
// on, gives its name to another machine, and lets the first one try all that its
// certificate was good for.
func TestDeletedNodeHasNoRights(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	ns := newNamespace(t, c.server)
	gone := c.agents[0]
	token := c.server.newToken(t)
	old := gone.remembers(t)
	gone.losesRights(ns, old)

	// Without a token it cannot come back, and says what to do.
	gone.give(t, "")
	gone.refuses(t, deletedText, "brink token create", "--token-file")

	// Its name is another machine's now, and what that has is out of reach.
	next := c.prepareAgent(t)
	next.rename(t, gone.ID)
	if err := next.StartUntil("node " + gone.ID + " is Ready"); err != nil {
		t.Fatal(err)
	}
	ns.apply(strings.ReplaceAll(withSecret, "$NODE", gone.ID))
	ns.readyPod("successor")
	ns.successorIsItsOwn(old)
	gone.give(t, token.Text())
	gone.refuses(t, "node name", gone.ID, "belongs to another machine")

	// The same after a restart of the server, whose own node was deleted as well.
	ns.kubectl("delete", "node", c.server.ID)
	if err := c.server.Restart(); err != nil {
		t.Fatalf("the server's own node, deleted and started again: %v", err)
	}
	ns.nodeIs(c.server, corev1.ConditionTrue)
	ns.successorIsItsOwn(old)
	if said := machine.Tail(next.LogFile("err", next.Starts), 1<<20); strings.Contains(said, "is forbidden") || strings.Contains(said, deletedText) {
		t.Errorf("after the server's restart an agent says that it was refused\n%s", said)
	}

	// With its name free again the first machine is taken back, by token and password.
	if err := next.Stop(); err != nil {
		t.Fatal(err)
	}
	ns.kubectl("delete", "node", gone.ID)
	if err := gone.Start(); err != nil {
		t.Fatalf("the first machine with a token: %v", err)
	}
	if err := old.isOut(ns, "till"); err != nil {
		t.Errorf("its certificate of before is good again: %v", err)
	}
	c.adoptsNodes(ns, gone)
}

// successorIsItsOwn: the machine that has the name now is reached, and what it has is not
// for the one that had the name before.
func (ns *namespace) successorIsItsOwn(old *removed) {
	ns.Helper()
	if err := old.isOut(ns, "till"); err != nil {
		ns.Error(err)
	}
	ns.eventually("logs", func() error { return contains(ns.logs("successor"), "the successor") })
	ns.eventuallyExec("successor", "of-the-successor", "sh", "-c", "echo $VALUE")
}

// losesRights deletes a node while its machine runs, and then stops brink there. Its pod
// lives on.
func (n *node) losesRights(ns *namespace, old *removed) {
	t := ns.T
	t.Helper()
	ns.apply(sleeper("box", "  nodeName: "+n.ID+"\n"))
	box := ns.readyPod("box")
	if _, err := old.client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatalf("the node's own certificate, before: %v", err)
	}
	watch := old.watches()

	ns.kubectl("delete", "node", n.ID)
	begun := time.Now()
	old.isRefusedSoon()
	ns.eventually("the deleted node to have no rights", func() error { return old.isOut(ns, "till") })
	select {
	case <-watch:
	case <-time.After(patience):
		t.Error("a watch goes on")
	}
	t.Logf("no rights %v after the deletion", time.Since(begun).Round(100*time.Millisecond))
	n.saysDeleted(ns, "restart brink to join again with the token in its settings")
	if len(n.PodProcesses(string(box.UID))) == 0 {
		t.Error("its pods have ended")
	}

	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	if len(n.PodProcesses(string(box.UID))) == 0 {
		t.Error("its pods have ended with brink")
	}
}

// saysDeleted checks that a node tells of its deletion in one line, in the log and in
// `brink status`.
func (n *node) saysDeleted(ns *namespace, what string) {
	ns.Helper()
	ns.eventually("the deleted node to say so", func() error {
		r, err := n.Status()
		if err == nil && r.Code != 1 {
			err = fmt.Errorf("exit code %d", r.Code)
		}
		if said := strings.Count(r.Stdout, deletedText); said != 1 {
			err = errors.Join(err, fmt.Errorf("%d lines about it", said))
		}
		return errors.Join(err, contains(r.Stdout, what))
	})
	// The reason why the node is not ready may come before the server's refusal, or not.
	log := machine.Tail(n.LogFile("err", n.Starts), 1<<20)
	if said := strings.Count(log, what); said != 1 {
		ns.Errorf("%d lines about the deletion in the log\n%s", said, log)
	}
}

// adoptsNodes: the nodes of an older brink, which wrote no keys into records and lost
// some records, go on.
func (c *cluster) adoptsNodes(ns *namespace, n *node) {
	t := ns.T
	t.Helper()
	secrets := c.server.Client.CoreV1().Secrets("kube-system")
	record := n.ID + ".node-key.brink"
	if err := secrets.Delete(t.Context(), record, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "brink:node-renewal"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:nodes"}},
	}
	_, err := c.server.Client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})
	if err := errors.Join(err, c.server.Stop(), c.server.Start()); err != nil {
		t.Fatal(err)
	}
	ns.eventually("the record to have the node's key", func() error {
		s, err := secrets.Get(t.Context(), record, metav1.GetOptions{})
		if err == nil && len(s.Data["certificate-keys"]) == 0 {
			err = errors.New("it has none")
		}
		return err
	})
	begun := time.Now()
	ns.eventually("a heartbeat", func() error { return n.beats(t, begun) })
	if _, err := c.server.Client.RbacV1().ClusterRoleBindings().Get(t.Context(), binding.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the binding of the older brink: %v", err)
	}
	// Another certificate of its name does not belong to its machine.
	config, err := c.server.RestConfig()
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.CertData, config.KeyData, err = c.server.clientCertificate(pkix.Name{CommonName: "system:node:" + n.ID, Organization: []string{"system:nodes"}})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("another certificate of the node's name: %v, want it unauthorized", err)
	}
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"brink/e2e/machine"
	"brink/internal/wire/jointoken"
)

// TestJoin goes from a new machine to a node whose token is gone, through every
// way in which a token can be wrong before.
func TestJoin(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	good := c.server.newToken(t, "--description", "till 3")
	expired, deleted := c.server.newToken(t), c.server.newToken(t)
	c.server.expire(t, expired.ID)
	c.server.mustToken(t, "delete", deleted.ID)
	other, unknown := good, jointoken.New(good.CAHash)
	other.CAHash = strings.Repeat("0", 64)
	wrong := good
	wrong.Secret = unknown.Secret

	n := c.prepareAgent(t, "token-file: /nowhere")
	n.refuses(t, "token-file", "/nowhere", "no such file")
	for _, tc := range []struct {
		name string
		give string
		want []string
	}{
		{"none", "", []string{"has not joined", "--token", "brink token create"}},
		{"half", good.Bootstrap(), []string{"--token", "without the hash"}},
		{"wrong hash", other.Text(), []string{"not the token's", "hash", "--server"}},
		{"unknown", unknown.Text(), []string{"does not know the token", unknown.ID}},
		{"wrong secret", wrong.Text(), []string{"does not know the token", wrong.ID}},
		{"expired", expired.Text(), []string{"has expired", expired.ID, "brink token create"}},
		{"deleted", deleted.Text(), []string{"was deleted", deleted.ID, "brink token create"}},
	} {
		n.give(t, tc.give)
		n.refuses(t, tc.want...)
		if secret := tc.give[strings.LastIndex(tc.give, ".")+1:]; tc.give != "" && strings.Contains(n.LogTail(), secret) {
			t.Errorf("%s: the log shows the token's secret", tc.name)
		}
	}
	// Nothing of all that has made a node.
	if _, err := c.server.Client.CoreV1().Nodes().Get(t.Context(), n.ID, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a refused machine is a node: %v", err)
	}
	n.joinsOnce(t, c.server, good)
	n.staysInItsCluster(t, other)
}

// joinsOnce joins with a token that is then deleted, and does not need it again.
func (n *node) joinsOnce(t *testing.T, server *node, token jointoken.Token) {
	t.Helper()
	n.give(t, token.Text())
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	server.mustToken(t, "delete", token.ID)
	n.give(t, "")
	for range 2 {
		if err := n.Restart(); err != nil {
			t.Fatalf("a node that has joined, without its token: %v", err)
		}
	}
}

// staysInItsCluster gives a node that has joined what belongs to another cluster.
func (n *node) staysInItsCluster(t *testing.T, other jointoken.Token) {
	t.Helper()
	// Another cluster's token is a mistake to be told, not one to be followed.
	n.give(t, other.Text())
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.refuses(t, "node of another cluster", "brink uninstall")
	// So is another cluster's server, as this one is after its data was lost.
	n.give(t, "")
	err := n.Configure("server", "https://"+sharedNode(t).Addr.String()+":6443")
	if err := errors.Join(err, os.Remove(n.Layout().Servers()), n.Launch()); err != nil {
		t.Fatal(err)
	}
	err = errors.Join(n.AwaitText("err", "is no server of the cluster that this machine has joined"), n.Says("err", "brink uninstall and join again"))
	if err != nil {
		t.Error(err)
	}
}

// give has the next start use a token, "" for none.
func (n *node) give(t *testing.T, token string) {
	t.Helper()
	if err := errors.Join(n.Configure("token-file", ""), n.Configure("token", token)); err != nil {
		t.Fatal(err)
	}
}

// expire lets a token's time be over, not long ago: what has expired is remembered
// for a week.
func (n *node) expire(t *testing.T, id string) {
	t.Helper()
	patch, err := json.Marshal(corev1.Secret{StringData: map[string]string{"expiration": time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Client.CoreV1().Secrets("kube-system").Patch(t.Context(), "bootstrap-token-"+id, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// TestJoinWhereNoServerIs: what answers is something else, or nobody yet.
func TestJoinWhereNoServerIs(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 0)
	token := c.server.newToken(t)
	n := c.prepareAgent(t, "token: "+token.Text())
	at := func(addr string) {
		if err := n.Configure("server", addr); err != nil {
			t.Fatal(err)
		}
	}
	at("http://" + c.server.Addr.String() + ":6443")
	n.refuses(t, "--server=http", "https")
	at("https://" + serveOnLAN(t, nil, http.NotFoundHandler()))
	n.refuses(t, "not a brink server", "does not speak TLS")
	web := newCA(t, time.Now())
	at("https://" + serveOnLAN(t, web, http.NotFoundHandler()))
	n.refuses(t, "not a brink server", "404")
	at("https://" + serveOnLAN(t, web, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") })))
	n.refuses(t, "not a brink server", "no certificate")

	// A CA that is not valid yet is what a machine sees whose clock is behind; one
	// that has ended, a machine whose clock is ahead.
	for _, from := range []time.Time{time.Now().Add(30 * 24 * time.Hour), time.Now().Add(-30 * 24 * time.Hour)} {
		other := newCA(t, from)
		hash, err := jointoken.HashCA(other.pem)
		if err != nil {
			t.Fatal(err)
		}
		n.give(t, jointoken.New(hash).Text())
		at("https://" + serveOnLAN(t, other, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(other.pem) })))
		n.refuses(t, "clock", "NTP", from.Add(24*time.Hour).UTC().Format(time.DateOnly))
	}

	n.give(t, token.Text())
	at("https://" + c.server.Addr.String() + ":6443")
	n.waitsForServer(t, c.server)
}

// waitsForServer starts an agent while its server is stopped.
func (n *node) waitsForServer(t *testing.T, server *node) {
	t.Helper()
	if err := errors.Join(server.Stop(), n.Launch(), n.AwaitText("err", "connection refused")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // in which it tries again and again
	if said := strings.Count(machine.Tail(n.LogFile("err", n.Starts), 64<<10), "connection refused"); said > 2 {
		t.Errorf("%d lines about a server that is away\n%s", said, n.LogTail())
	}
	if err := errors.Join(server.Start(), n.AwaitText("out", "is Ready")); err != nil {
		t.Fatal(err)
	}
}

// TestNameOfAnotherMachine: a machine with only a token gets no name that is taken; the
// owner gets its own back; kubectl delete node frees the name.
func TestNameOfAnotherMachine(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	owner := c.join(t, 1)[0]
	thief := c.prepareAgent(t)
	thief.rename(t, owner.ID)
	thief.refuses(t, "node name", owner.ID, "belongs to another machine", "kubectl delete node")

	// Without its node password it goes on by its certificate, and is the same.
	password := owner.Layout().NodePassword()
	err := errors.Join(owner.Stop(), os.Rename(password, password+".kept"), owner.Start(), owner.Says("err", password+" is lost"))
	if key := owner.object(t).Annotations["brink.io/node-key"]; err != nil || key == "" {
		t.Errorf("a node without its password, with the key %q: %v", key, err)
	}
	if _, err := os.Stat(password); err == nil {
		t.Error("a node that has joined has made itself another password")
	}
	if err := os.Rename(password+".kept", password); err != nil {
		t.Fatal(err)
	}
	// The owner loses all that it knows but its node password.
	owner.forgetCertificate(t)
	if err := owner.Start(); err != nil {
		t.Fatalf("the machine itself: %v", err)
	}
	// So it does after its Node was deleted while it had a certificate.
	if err := owner.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.server.Client.CoreV1().Nodes().Delete(t.Context(), owner.ID, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatalf("a node that was deleted and started again: %v", err)
	}
	thief.refuses(t, "node name", owner.ID, "belongs to another machine")
	owner.forgetCertificate(t)
	if err := owner.Start(); err != nil {
		t.Fatalf("the machine itself, after its Node was deleted: %v", err)
	}
	owner.losesName(t, c, thief)
}

// losesName deletes the Node of a machine, which runs on, and gives its name to another
// one.
func (n *node) losesName(t *testing.T, c *cluster, thief *node) {
	t.Helper()
	if err := c.server.Client.CoreV1().Nodes().Delete(t.Context(), n.ID, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	thief.rename(t, n.ID)
	if err := thief.StartUntil("node " + n.ID + " is Ready"); err != nil {
		t.Fatalf("the name of a node that was deleted: %v", err)
	}
	if err := errors.Join(n.Says("err", "was deleted from the cluster"), n.Stop()); err != nil {
		t.Error(err)
	}
	n.refuses(t, n.ID, "belongs to another machine", "kubectl delete node "+n.ID)
	node := n.object(t)
	if got := node.Status.Addresses[0].Address; got != thief.Addr.String() {
		t.Errorf("the node is at %s, not where the machine is that has its name now, %s", got, thief.Addr)
	}
	r, err := n.Brink(append([]string{"uninstall", "--yes"}, n.Flags("data-dir")...)...)
	if want := "kubectl delete node " + n.ID; err != nil || r.Code != 0 || !strings.Contains(r.Stdout, want) {
		t.Errorf("uninstalling does not say %q: %v, %v", want, r, err)
	}
}

// forgetCertificate stops a node and takes what proves that it has joined.
func (n *node) forgetCertificate(t *testing.T) {
	t.Helper()
	if err := errors.Join(n.Stop(), os.RemoveAll(n.Layout().KubeletCerts())); err != nil {
		t.Fatal(err)
	}
}

func (n *node) rename(t *testing.T, name string) {
	t.Helper()
	if err := n.Configure("node-name", name); err != nil {
		t.Fatal(err)
	}
}

// TestTokenIsNotInTheListOfProcesses: everybody on the machine sees that list.
func TestTokenIsNotInTheListOfProcesses(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	token := c.server.newToken(t)
	n := c.prepareAgent(t, "token: ")
	n.give(t, "")
	for _, args := range [][]string{{"--token", token.Text()}, {"--token=" + token.Text()}, {"-t", token.Text()}} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd := n.Command(ctx, append(append([]string{brinkBinary, "agent"}, n.Flags("config")...), args...)...)
		var log bytes.Buffer
		cmd.Stderr, cmd.Stdout = &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		hidden := func() error {
			line := machine.CommandLine(cmd.Process.Pid)
			if strings.Contains(line, token.Secret) || !strings.Contains(line, "***") {
				return fmt.Errorf("the list of processes shows %s", line)
			}
			return nil
		}
		if err := eventually(hidden); err != nil {
			t.Error(err)
		}
		cancel()
		_ = cmd.Wait()
		if strings.Contains(log.String(), token.Secret) {
			t.Errorf("the log shows the token\n%s", log.String())
		}
	}
}

// TestJoinByEnvironment: with nothing on the command line or in a file. What brink
// starts does not inherit the token.
func TestJoinByEnvironment(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	token := c.server.newToken(t)
	n := c.prepareAgent(t)
	n.Env = []string{"BRINK_URL=https://" + c.server.Addr.String() + ":6443", "BRINK_TOKEN=" + token.Text()}
	if err := errors.Join(n.Configure("server", ""), n.Configure("token-file", ""), n.Start()); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, c.server)
	ns.apply(sleeper("box", "  nodeName: "+n.ID+"\n"))
	ns.readyPod("box")
	started := 0
	for _, pid := range n.Processes() {
		if pid == n.Cmd.Process.Pid || pid == n.Holder.PID() {
			continue
		}
		started++
		if env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); bytes.Contains(env, []byte(token.Secret)) {
			t.Errorf("%s has the token in its environment", machine.CommandLine(pid))
		}
	}
	if started == 0 {
		t.Error("brink has started nothing, this test shows nothing")
	}
}

// TestAgentsFlags: what a node says about itself when it registers.
func TestAgentsFlags(t *testing.T) {
	t.Parallel()
	c := aControlPlane(t)
	n := c.join(t, 1, "node-label: [room=kitchen, floor=2]", "node-taint: edge=yes:PreferNoSchedule", "node-external-ip: 203.0.113.7")[0]
	obj := n.object(t)
	if obj.Labels["room"] != "kitchen" || obj.Labels["floor"] != "2" {
		t.Errorf("labels %v", obj.Labels)
	}
	// That of a node that is not ready goes a moment after it is.
	tainted := func() error {
		if taints := n.object(t).Spec.Taints; len(taints) != 1 || taints[0].Key != "edge" {
			return fmt.Errorf("taints %v", taints)
		}
		return nil
	}
	if err := eventually(tainted); err != nil {
		t.Error(err)
	}
	want := map[corev1.NodeAddressType]string{corev1.NodeInternalIP: n.Addr.String(), corev1.NodeExternalIP: "203.0.113.7", corev1.NodeHostName: n.ID}
	for _, a := range obj.Status.Addresses {
		if want[a.Type] != a.Address {
			t.Errorf("%s is %s, want %s", a.Type, a.Address, want[a.Type])
		}
		delete(want, a.Type)
	}
	if len(want) > 0 {
		t.Errorf("addresses %v, missing %v", obj.Status.Addresses, want)
	}
	// Nobody may pass for a kubelet: its certificate is of the cluster's CA and has
	// the node's name and addresses.
	served := func() error {
		cert, err := n.verifiedKubelet(t)
		if err != nil {
			return err
		}
		return errors.Join(cert.VerifyHostname(n.Addr.String()), cert.VerifyHostname("203.0.113.7"))
	}
	if err := eventually(served); err != nil {
		t.Errorf("the kubelet's certificate: %v", err)
	}
}

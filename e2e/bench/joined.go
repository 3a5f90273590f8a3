package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/e2e/machine"
	"brink/internal/layout"
	"brink/server/noderecord"
	"brink/server/pki"
)

// cluster is a brink server on a switch, which others join.
type cluster struct {
	settings settings
	log      *slog.Logger
	lan      *machine.Switch
	machine  *testbed
	server   *brinkNode
	image    string // an archive; empty when nodes shall not have it from the start
	client   kubernetes.Interface
	started  []*joined
}

// joined is a machine with a node on it.
type joined struct {
	*testbed
	node
}

// startCluster starts a server, with more arguments than its defaults need, and
// waits until it can be joined.
func startCluster(ctx context.Context, log *slog.Logger, s settings, l *machine.Switch, args ...string) (_ *cluster, err error) {
	m, err := newTestbed(l)
	if err != nil {
		return nil, err
	}
	c := &cluster{settings: s, log: log, lan: l, machine: m, image: filepath.Join(m.Dir, "image.tar")}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if err := writeImage(c.image); err != nil {
		return nil, err
	}
	s.profiles = ""
	n, err := newBrink(s, m)
	if err != nil {
		return nil, err
	}
	c.server = n.(*brinkNode)
	c.server.server.argv = append(c.server.server.argv, args...)
	if err := c.server.bringImage(c.image); err != nil {
		return nil, err
	}
	if err := c.server.start(); err != nil {
		return nil, err
	}
	if c.client, err = connect(ctx, m, c.server.kubeconfig()); err != nil {
		return nil, err
	}
	return c, c.awaitToken(ctx)
}

// awaitToken waits until the API answers and the token is there.
func (c *cluster) awaitToken(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := os.Stat(c.layout().ServerToken())
		if err == nil {
			_, err = c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the server: %w\n%s", err, c.server.logs())
		case <-time.After(retry):
		}
	}
}

func (c *cluster) layout() layout.Layout { return layout.New(c.server.data()) }

func (c *cluster) url() string { return "https://" + c.machine.Addr.String() + ":6443" }

// close ends what joined, then the server.
func (c *cluster) close() error {
	var errs []error
	for _, j := range c.started {
		errs = append(errs, j.close())
	}
	if c.server != nil {
		errs = append(errs, c.server.stop())
	}
	return errors.Join(append(errs, c.machine.Destroy())...)
}

func (j *joined) close() error {
	return errors.Join(j.node.stop(), j.testbed.Destroy())
}

// newAgent makes what joins the cluster on a machine.
type newAgent func(*cluster, *testbed) (node, error)

// newAgents are by the names of sides.
var newAgents = map[string]newAgent{brinkName: newBrinkAgent, separateName: newSeparateAgent}

// prepareAgent makes a machine with a node that has the cluster's image, or
// imports it at its start.
func (c *cluster) prepareAgent(ctx context.Context, side string) (*joined, error) {
	m, err := newTestbed(c.lan)
	if err != nil {
		return nil, err
	}
	n, err := newAgents[side](c, m)
	if err == nil {
		err = n.prepare(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.Destroy())
	}
	j := &joined{m, n}
	c.started = append(c.started, j)
	return j, nil
}

// leave ends a node and removes it from the cluster.
func (c *cluster) leave(ctx context.Context, j *joined) error {
	c.started = slices.DeleteFunc(c.started, func(other *joined) bool { return other == j })
	err := j.close()
	if gone := c.client.CoreV1().Nodes().Delete(ctx, j.ID, metav1.DeleteOptions{}); !apierrors.IsNotFound(gone) {
		err = errors.Join(err, gone)
	}
	return err
}

func newBrinkAgent(c *cluster, m *testbed) (node, error) {
	path, err := copyProgram(m, c.settings.brink, "brink")
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(c.layout().ServerToken())
	if err != nil {
		return nil, err
	}
	b := &brinkNode{testbed: m}
	b.server = &program{testbed: m, name: "brink", argv: []string{
		path, "agent", "--server", c.url(), "--token", strings.TrimSpace(string(token)),
		"--data-dir", b.data(), "--kubelet-arg=cgroup-root=/" + m.ID,
	}}
	return b, b.bringImage(c.image)
}

// newSeparateAgent has an advantage over brink in all that upstream leaves to
// others: its certificates lie ready where brink asks the server for them; its
// CNI configuration does, with a range that nobody else gets; and its routes.
func newSeparateAgent(c *cluster, m *testbed) (node, error) {
	n := &separateNode{
		testbed: m, names: agentPrograms, api: c.url(), cluster: c,
		podRange: fmt.Sprintf("10.42.%d.0/24", 100+int(m.Addr.As4()[3])),
	}
	if c.image != "" {
		// A machine does not see the files of another.
		archive := n.file("image.tar")
		if err := writeImage(archive); err != nil {
			return nil, err
		}
		n.images = []string{archive}
	}
	if err := n.make(c.settings); err != nil {
		return nil, err
	}
	return n, errors.Join(
		m.Holder.Script("ip route add "+firstRange+" via "+c.machine.Addr.String()),
		c.machine.Holder.Script("ip route add "+n.podRange+" via "+m.Addr.String()))
}

// firstRange is of the pods of a cluster's first node.
const firstRange = "10.42.0.0/24"

// copyAuthorities lets a node that cannot ask make its own certificates.
func (c *cluster) copyAuthorities(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{pki.ServerCA, pki.ClientCA} {
		for _, from := range []string{pki.Dir(c.layout().TLS()).Cert(name), pki.Dir(c.layout().TLS()).Key(name)} {
			text, err := os.ReadFile(from)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(from)), text, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordNode has the server accept a node's certificate that it has not signed itself.
func (c *cluster) recordNode(ctx context.Context, name string, certificate []byte) error {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return errors.New("the node's certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	record := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name + noderecord.Suffix}, Type: noderecord.Type}
	noderecord.SetKeys(record, noderecord.KeyOf(cert.RawSubjectPublicKeyInfo))
	if _, err := c.client.CoreV1().Secrets(noderecord.Namespace).Create(ctx, record, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("recording node %s: %w", name, err)
	}
	return nil
}

// bringImage leaves an archive where brink imports it from at its start.
func (b *brinkNode) bringImage(archive string) error {
	if archive == "" {
		return nil
	}
	text, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	dir := layout.New(b.data()).Images()
	return errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "image.tar"), text, 0o644))
}

// pinned is a pod on a node that need not exist yet.
func pinned(name, node string, command ...string) *corev1.Pod {
	spec := deployment(name, 1).Spec.Template.Spec
	spec.NodeName = node
	spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	if len(command) > 0 {
		spec.Containers[0].Command = command
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

// runPod runs a pod on a machine of the cluster and finds it there.
func (c *cluster) runPod(ctx context.Context, name string, m *testbed) (pod, error) {
	_, err := c.client.CoreV1().Pods(namespace).Create(ctx, pinned(name, m.ID), metav1.CreateOptions{})
	if err != nil {
		return pod{}, err
	}
	var is *corev1.Pod
	err = await(ctx, c.client.CoreV1().Pods(namespace).Watch, name, func(p *corev1.Pod) bool {
		is = p
		return p.Status.Phase == corev1.PodRunning && p.Status.PodIP != ""
	})
	if err != nil {
		return pod{}, err
	}
	pid, err := m.processOf(string(is.UID))
	return pod{pid, is.Status.PodIP}, err
}

// processOf is a process of a pod, but not its shim.
func (t *testbed) processOf(uid string) (int, error) {
	for _, pid := range t.PodProcesses(uid) {
		exe, _ := os.Readlink(procFile(pid, "exe"))
		if !strings.HasPrefix(exe, t.Dir) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no process of pod %s on %s", uid, t.ID)
}

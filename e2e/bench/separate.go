package main

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brink/internal/host"
	"brink/runtime/payload"
	"brink/server/pki"
)

// separateNode is the rival: every component a process of its own, started at
// one instant by one parent. Its settings are upstream's defaults, save those
// that brink has too because the cluster or the host needs them, and leader
// election, which is off as anybody with one server would have it.
type separateNode struct {
	*testbed
	tls      pki.Dir
	tools    payload.Programs // runc, shim, CNI plugins, pause image
	brink    string           // for its ctr
	facts    host.Facts       // of the host; its systemd is not in the machine
	endpoint string           // of kine; empty is its default
	names    []string         // of its programs, in the order in which they are stopped, reversed
	api      string           // URL of the API server
	cluster  *cluster         // of which it is a node, nil if it is all of one
	podRange string           // of its pods
	images   []string         // archives that it has imported before it starts
	programs []*program

	kubeletCert []byte // by which its kubelet is a node, PEM
}

const (
	criSocket  = "/run/containerd/containerd.sock"
	kineSocket = "/run/kine.sock"
	localAPI   = "https://127.0.0.1:6443"
	serviceIP  = "10.43.0.1"
)

// serverPrograms are a node with the control plane, agentPrograms one without.
var (
	serverPrograms = []string{
		"kine", "containerd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy",
	}
	agentPrograms = []string{"containerd", "kubelet", "kube-proxy"}
)

func newSeparate(s settings, m *testbed) (node, error) {
	// The range is the first that the node IPAM controller gives away.
	n := &separateNode{testbed: m, names: serverPrograms, endpoint: s.kineEndpoint, api: localAPI, podRange: "10.42.0.0/24"}
	return n, n.make(s)
}

// make makes all files of the node.
func (n *separateNode) make(s settings) (err error) {
	m := n.testbed
	n.tls = pki.Dir(filepath.Join(m.Dir, "tls"))
	if n.facts, err = host.Look(); err != nil {
		return err
	}
	if n.tools, err = payload.Unpack(filepath.Join(m.Dir, "tools")); err != nil {
		return err
	}
	if n.brink, err = copyProgram(m, s.brink, "brink"); err != nil {
		return err
	}
	if err := errors.Join(n.certify(), n.writeFiles(), m.makeCgroupRoot(n.facts.Cgroup.Version)); err != nil {
		return err
	}
	for _, name := range n.names {
		path, err := copyProgram(m, filepath.Join(s.rival, name), name)
		if err != nil {
			return err
		}
		n.programs = append(n.programs, &program{
			testbed: m, name: name, argv: append([]string{path}, n.args(name)...),
			env: []string{"PATH=" + n.tools.Bin() + ":/usr/sbin:/usr/bin:/sbin:/bin"},
		})
	}
	return nil
}

// certify makes the authorities and certificates that brink has too, and client
// certificates for those components that brink reaches in memory.
func (n *separateNode) certify() error {
	if n.cluster != nil {
		if err := n.cluster.copyAuthorities(string(n.tls)); err != nil {
			return err
		}
	}
	_, err := pki.Ensure(pki.Config{
		Dir: string(n.tls), ClusterDomain: "cluster.local", NodeName: n.ID,
		NodeIPs: []netip.Addr{n.Addr}, ServiceIPs: []netip.Addr{netip.MustParseAddr(serviceIP)},
	})
	if err != nil {
		return err
	}
	for program, user := range map[string]pkix.Name{
		"kube-controller-manager": {CommonName: "system:kube-controller-manager"},
		"kube-scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":              {CommonName: "system:kube-proxy"},
		"kubelet":                 {CommonName: "system:node:" + n.ID, Organization: []string{"system:nodes"}},
	} {
		cert, key, err := clientCertificate(n.tls, user)
		if err != nil {
			return fmt.Errorf("making the certificate of %s: %w", program, err)
		}
		if err := n.writeKubeconfig(program, cert, key); err != nil {
			return err
		}
		if program == "kubelet" {
			n.kubeletCert = cert
		}
	}
	cert, certErr := os.ReadFile(n.tls.Cert(pki.ClientAdmin))
	key, keyErr := os.ReadFile(n.tls.Key(pki.ClientAdmin))
	return errors.Join(certErr, keyErr, n.writeKubeconfig("admin", cert, key))
}

func (n *separateNode) file(name string) string { return filepath.Join(n.Dir, name) }

func (n *separateNode) kubeconfigOf(user string) string { return n.file(user + ".kubeconfig") }

func (n *separateNode) kubeconfig() string { return n.kubeconfigOf("admin") }

func (n *separateNode) writeKubeconfig(user string, cert, key []byte) error {
	ca, err := os.ReadFile(n.tls.ServerCA())
	if err != nil {
		return err
	}
	return pki.WriteKubeconfig(n.kubeconfigOf(user), n.api, ca, cert, key, 0o600)
}

// prepare has containerd import the pause image, which brink brings itself: the
// figures are of a node whose owner has installed everything.
func (n *separateNode) prepare(ctx context.Context) error {
	if n.cluster != nil {
		if err := n.cluster.recordNode(ctx, n.ID, n.kubeletCert); err != nil {
			return err
		}
	}
	containerd := n.programs[slices.Index(n.names, "containerd")]
	if err := containerd.start(); err != nil {
		return err
	}
	err := n.await(ctx, criSocket)
	for _, archive := range append([]string{n.tools.PauseArchive()}, n.images...) {
		if err == nil {
			err = n.importImage(ctx, archive)
		}
	}
	return errors.Join(err, containerd.stop())
}

// await waits until somebody listens on a unix socket of the machine.
func (n *separateNode) await(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := net.Dial("unix", n.Inside(socket))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", socket, err)
		case <-time.After(retry):
		}
	}
}

func (n *separateNode) start() error {
	for _, p := range n.programs {
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// stop ends those first that need the others to end well.
func (n *separateNode) stop() error {
	var errs []error
	for _, p := range slices.Backward(n.programs) {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

func (n *separateNode) running() []*program { return n.programs }

func (n *separateNode) size() (int64, error) {
	paths := []string{n.tools.Bin(), n.tools.PauseArchive()}
	for _, p := range n.programs {
		paths = append(paths, p.argv[0])
	}
	return sizeOf(paths...)
}

func (n *separateNode) logs() string {
	var out strings.Builder
	for _, p := range n.programs {
		out.WriteString(n.logTail(p.name))
	}
	return out.String()
}

func (n *separateNode) importImage(ctx context.Context, archive string) error {
	cmd := n.command(ctx, n.brink, "ctr", "images", "import", archive)
	cmd.Env = append(cmd.Env, "CONTAINERD_ADDRESS="+criSocket, "CONTAINERD_NAMESPACE=k8s.io")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("importing %s: %w: %s", archive, err, bytes.TrimSpace(out))
	}
	return nil
}

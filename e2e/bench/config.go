package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"

	"brink/internal/host"
	"brink/server/pki"
)

// args is the command line of a program of the rival. The API server's and the
// controllers' flags are those that brink gives them, without the split of the
// datastore, the in-memory clients and the missing ports.
func (n *separateNode) args(program string) []string {
	switch program {
	case "kine":
		// The default endpoint is SQLite in ./db with kine's own settings.
		return []string{"--listen-address=unix://" + kineSocket, "--endpoint=" + n.endpoint}
	case "containerd":
		return []string{"--config=" + n.file("containerd.toml")}
	case "kube-apiserver":
		return n.apiserverArgs()
	case "kube-controller-manager":
		return n.controllerArgs()
	case "kube-scheduler":
		return []string{"--kubeconfig=" + n.kubeconfigOf(program), "--leader-elect=false"}
	case "kubelet":
		return []string{"--kubeconfig=" + n.kubeconfigOf(program), "--config=" + n.file("kubelet.yaml"), "--node-ip=" + n.Addr.String(),
			"--root-dir=" + n.file("kubelet"), "--cert-dir=" + n.file("kubelet-pki")}
	default: // kube-proxy
		return []string{
			"--kubeconfig=" + n.kubeconfigOf(program),
			"--proxy-mode=nftables",
			"--cluster-cidr=10.42.0.0/16",
			// Zero leaves what is: these can be read only in a network
			// namespace, where brink leaves them too.
			"--conntrack-max-per-core=0",
			"--conntrack-tcp-timeout-established=0s",
			"--conntrack-tcp-timeout-close-wait=0s",
		}
	}
}

func (n *separateNode) apiserverArgs() []string {
	t := n.tls
	return []string{
		"--advertise-address=" + n.Addr.String(),
		"--allow-privileged=true",
		"--anonymous-auth=false",
		"--authorization-mode=Node,RBAC",
		"--client-ca-file=" + t.ClientCA(),
		"--enable-admission-plugins=NodeRestriction",
		"--enable-aggregator-routing=true",
		"--enable-bootstrap-token-auth=true",
		"--etcd-servers=unix://" + kineSocket,
		"--kubelet-certificate-authority=" + t.ServerCA(),
		"--kubelet-client-certificate=" + t.Cert(pki.ClientAPIServer),
		"--kubelet-client-key=" + t.Key(pki.ClientAPIServer),
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"--proxy-client-cert-file=" + t.Cert(pki.ClientAuthProxy),
		"--proxy-client-key-file=" + t.Key(pki.ClientAuthProxy),
		"--requestheader-allowed-names=" + pki.AuthProxyUser,
		"--requestheader-client-ca-file=" + t.RequestHeaderCA(),
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-username-headers=X-Remote-User",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + t.ServiceKey(),
		"--service-account-signing-key-file=" + t.ServiceKey(),
		"--service-cluster-ip-range=10.43.0.0/16",
		"--tls-cert-file=" + t.Cert(pki.ServingAPIServer),
		"--tls-private-key-file=" + t.Key(pki.ServingAPIServer),
	}
}

func (n *separateNode) controllerArgs() []string {
	return []string{
		"--kubeconfig=" + n.kubeconfigOf("kube-controller-manager"),
		"--leader-elect=false",
		"--allocate-node-cidrs=true",
		"--cluster-cidr=10.42.0.0/16",
		"--service-cluster-ip-range=10.43.0.0/16",
		"--cluster-signing-cert-file=" + n.tls.ClientCA(),
		"--cluster-signing-key-file=" + n.tls.Key(pki.ClientCA),
		"--controllers=*,bootstrapsigner,tokencleaner",
		"--root-ca-file=" + n.tls.ServerCA(),
		"--service-account-private-key-file=" + n.tls.ServiceKey(),
		"--use-service-account-credentials=true",
		"--flex-volume-plugin-dir=" + n.file("volumeplugins"), // upstream's default is made on the host
	}
}

func (n *separateNode) writeFiles() error {
	kubelet, err := n.kubeletConfig()
	return errors.Join(err,
		os.WriteFile(n.file("kubelet.yaml"), kubelet, 0o644),
		os.WriteFile(n.file("containerd.toml"), []byte(n.containerdConfig()), 0o644),
		os.MkdirAll(n.file("db"), 0o700), // kine makes it for its default endpoint only
		os.MkdirAll(n.file("cni-conf"), 0o755),
		os.WriteFile(filepath.Join(n.file("cni-conf"), "10-bench.conflist"), []byte(n.cniConfig()), 0o644))
}

// kubeletConfig is what brink's kubelet is given as well.
func (n *separateNode) kubeletConfig() ([]byte, error) {
	type object = map[string]any
	return yaml.Marshal(object{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + criSocket,
		"authentication":           object{"x509": object{"clientCAFile": n.tls.ClientCA()}},
		"tlsCertFile":              n.tls.Cert(pki.ServingKubelet),
		"tlsPrivateKeyFile":        n.tls.Key(pki.ServingKubelet),
		"clusterDomain":            "cluster.local",
		"clusterDNS":               []string{"10.43.0.10"},
		// A machine's /run is empty, so brink sees no systemd there either.
		"cgroupDriver": "cgroupfs",
		"cgroupRoot":   "/" + n.ID,
		"failCgroupV1": false,
		"failSwapOn":   false,
		// Upstream's default is made on the host, and left there.
		"volumePluginDir": n.file("kubelet-volumeplugins"),
	})
}

func (n *separateNode) containerdConfig() string {
	return fmt.Sprintf(`version = 4
root = %q

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %q

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = %t
netns_mounts_under_state_dir = true
disable_apparmor = %t

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [%q]
conf_dir = %q
use_internal_loopback = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
`, n.file("containerd"), n.tools.PauseImage(), !n.facts.Capabilities.Has(host.CapSysResource), !n.facts.AppArmor,
		n.tools.Bin(), n.file("cni-conf"))
}

// cniConfig is brink's: bridge, host-local, portmap.
func (n *separateNode) cniConfig() string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "bench", "plugins": [
	{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
	 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	{"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables", "snat": true}]}
`, n.file("cni-state"), n.podRange)
}

// clientCertificate makes what identifies a component to the API server, as PEM.
func clientCertificate(dir pki.Dir, user pkix.Name) (cert, keyPEM []byte, err error) {
	ca, err := tls.LoadX509KeyPair(dir.ClientCA(), dir.Key(pki.ClientCA))
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      user,
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), err
}

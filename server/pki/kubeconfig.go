package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"os"

	"sigs.k8s.io/yaml"

	"brink/internal/atomicfile"
)

// contextName is the name of the cluster, the user and the context in brink's kubeconfigs. It
// is not "default", which would clash when several kubeconfigs are merged.
const contextName = "brink"

// Kubeconfig returns a kubeconfig that contains its credentials. server is the API server's
// URL; ca, cert and key are PEM.
func Kubeconfig(server string, ca, cert, key []byte) ([]byte, error) {
	type object = map[string]any
	named := func(what string, value object) []object {
		return []object{{"name": contextName, what: value}}
	}
	return yaml.Marshal(object{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": contextName,
		"clusters":        named("cluster", object{"server": server, "certificate-authority-data": ca}),
		"users":           named("user", object{"client-certificate-data": cert, "client-key-data": key}),
		"contexts":        named("context", object{"cluster": contextName, "user": contextName}),
	})
}

// WriteKubeconfig writes a kubeconfig to path with mode perm, and makes the directory. It
// writes nothing when the file has that content and mode already.
func WriteKubeconfig(path, server string, ca, cert, key []byte, perm os.FileMode) error {
	data, err := Kubeconfig(server, ca, cert, key)
	if err != nil {
		return fmt.Errorf("making kubeconfig %s: %w", path, err)
	}
	return atomicfile.Keep(path, data, perm)
}

// CheckKubeconfig returns an error when WriteKubeconfig could not make the file, or would
// take away somebody's access to other clusters: when the file at path is a kubeconfig with a
// cluster that has another CA than the file ca, which need not exist yet. It accepts a
// kubeconfig that brink wrote on this machine before its data was removed: one cluster, of
// brink's name, on loopback. It accepts any file that is not a kubeconfig.
func CheckKubeconfig(path, ca string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return atomicfile.CheckPlace(path)
	}
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	var has struct {
		Clusters []struct {
			Name    string
			Cluster kubeconfigCluster
		}
	}
	if yaml.Unmarshal(text, &has) != nil {
		return nil
	}
	own, _ := os.ReadFile(ca)
	for _, c := range has.Clusters {
		isOurs := len(own) > 0 && bytes.Equal(c.Cluster.CA, own)
		isOld := len(has.Clusters) == 1 && c.Name == contextName && c.Cluster.isLocal()
		if !isOurs && !isOld {
			return fmt.Errorf("%s holds another cluster, %s: name another file, kubectl merges several with KUBECONFIG=FILE:FILE", path, c.Name)
		}
	}
	return nil
}

type kubeconfigCluster struct {
	Server string `json:"server"`
	CA     []byte `json:"certificate-authority-data"`
}

// isLocal reports whether the server is on this machine's loopback.
func (c kubeconfigCluster) isLocal() bool {
	u, err := url.Parse(c.Server)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a.IsLoopback()
}

// WriteAdminKubeconfig writes the kubeconfig of the cluster's administrator to path, as
// WriteKubeconfig does.
func (t *Tree) WriteAdminKubeconfig(path, server string, perm os.FileMode) error {
	ca, cert, key, err := t.adminCredentials()
	if err != nil {
		return err
	}
	return WriteKubeconfig(path, server, ca, cert, key, perm)
}

func (t *Tree) adminCredentials() (ca, cert, key []byte, err error) {
	if ca, err = os.ReadFile(t.ServerCA()); err != nil {
		return nil, nil, nil, fmt.Errorf("making the admin kubeconfig: %w", err)
	}
	if cert, key, err = t.Pair(ClientAdmin); err != nil {
		return nil, nil, nil, fmt.Errorf("making the admin kubeconfig: %w", err)
	}
	return ca, cert, key, nil
}

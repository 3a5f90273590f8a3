package datadir

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/layout"
	"brink/internal/nodekey"
)

// adoptable tells whether a brink that knew no mark has kept its data in a
// directory. Other products have the same names there (k3s: server/tls/server-ca.crt,
// server/db/state.db, agent/containerd, data/<hash>), so these do not count. It is:
//
//   - of a server, when the server CA has its key beside it, the database is one of
//     SQLite's or the volatile store's revision is there, and either the CA was made
//     by brink, which its name says, or the list of what brink made is there;
//   - of an agent, when that list, the node's certificate with its key, the cluster's
//     CA and the node password are there;
//   - and what an uninstall left for another try: the list, with nothing of a node.
//
// What else lies there is not looked at: the tables of names protect it.
func adoptable(l layout.Layout) bool {
	listed := isList(l.Made())
	return isServer(l, listed) || listed && (isAgent(l) || isRest(l))
}

func isServer(l layout.Layout, listed bool) bool {
	ca := filepath.Join(l.TLS(), "server-ca")
	pair, err := tls.LoadX509KeyPair(ca+".crt", ca+".key")
	if err != nil || !pair.Leaf.IsCA {
		return false
	}
	isOurs := listed || strings.HasPrefix(pair.Leaf.Subject.CommonName, "brink-server-ca@")
	return isOurs && (isDatabase(filepath.Join(l.DB(), "state.db")) || exists(filepath.Join(l.DB(), "volatile.revision")))
}

// isDatabase reads the header of a database of SQLite's, or the lack of one: it is
// written with the first checkpoint.
func isDatabase(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 16)
	n, _ := f.Read(head)
	return n == 0 && exists(path+"-wal") || string(head[:n]) == "SQLite format 3\x00"
}

func isAgent(l layout.Layout) bool {
	current := filepath.Join(l.KubeletCerts(), "kubelet-client-current.pem")
	pair, err := tls.LoadX509KeyPair(current, current)
	if err != nil || !strings.HasPrefix(pair.Leaf.Subject.CommonName, "system:node:") {
		return false
	}
	ca, err := os.ReadFile(l.ClusterCA())
	if err != nil || !x509.NewCertPool().AppendCertsFromPEM(ca) {
		return false
	}
	_, err = nodekey.Read(l.NodePassword())
	return err == nil
}

// isRest tells that neither a control plane nor a node is left.
func isRest(l layout.Layout) bool { return !exists(l.Server()) && !exists(l.Agent()) }

// isList tells whether a file is a list of package ledger: lines of a kind and an
// absolute path.
func isList(path string) bool {
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return false
	}
	for line := range bytes.Lines(text) {
		kind, path, _ := strings.Cut(string(line), " ")
		switch kind {
		case "dir", "kubeconfig", "cgroup", "pods", "file", "sysctl":
			if !filepath.IsAbs(path) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

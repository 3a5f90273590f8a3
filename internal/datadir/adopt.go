package datadir

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/wire/nodeuser"
)

// adoptable reports whether an older brink, which wrote no mark, has kept its data in a
// directory. Other products use the same names (k3s: server/tls/server-ca.crt,
// server/db/state.db, agent/containerd, data/<hash>), so names prove nothing. The directory
// is one of:
//
//   - a server, if the server CA with its key and the ledger are there, and one more of:
//     the name that brink gives its CAs, the API server's certificate by that CA, a
//     database. Without the ledger, that name and a database are needed. A server whose
//     database is elsewhere has none here;
//   - an agent, if the ledger, the node's certificate with its key and the cluster's CA
//     are there. It can do without its node password;
//   - any node, if the ledger and a version of the embedded programs are there: an agent
//     that has never reached its server has no more;
//   - the rest of an uninstall, or of a start that failed: the ledger, and nothing of a
//     node, or nothing but files with brink's names.
//
// Anything else there is not inspected: the tables of names protect it. Whether the
// database is the CA's cluster's is checked by package datastore, which can read it.
func adoptable(l layout.Layout) bool {
	hasLedger := isLedger(l.Made())
	return isServer(l, hasLedger) || hasLedger && (isAgent(l) || hasPrograms(l) || isRest(l))
}

func isServer(l layout.Layout, hasLedger bool) bool {
	ca, ok := readPair(l, layout.ServerCA)
	if !ok || !ca.IsCA {
		return false
	}
	isNamed, hasDatabase := strings.HasPrefix(ca.Subject.CommonName, "brink-server-ca@"), hasDatabase(l)
	if !hasLedger {
		return isNamed && hasDatabase
	}
	serving, ok := readPair(l, layout.ServingAPIServer)
	return isNamed || hasDatabase || ok && serving.CheckSignatureFrom(ca) == nil
}

// readPair reads a certificate and its key.
func readPair(l layout.Layout, name string) (*x509.Certificate, bool) {
	return parsePair(l.Cert(name), l.Key(name))
}

// parsePair follows links: a user may have put links to a CA there, and the kubelet's own
// store makes a link to its current certificate.
func parsePair(certPath, keyPath string) (*x509.Certificate, bool) {
	cert, certErr := atomicfile.ReadTarget(certPath)
	key, keyErr := atomicfile.ReadTarget(keyPath)
	if certErr != nil || keyErr != nil {
		return nil, false
	}
	pair, err := tls.X509KeyPair(cert, key)
	return pair.Leaf, err == nil
}

func hasDatabase(l layout.Layout) bool {
	if revision, err := atomicfile.Read(l.SavedRevision()); err == nil {
		if _, err := strconv.ParseUint(strings.TrimSpace(string(revision)), 10, 64); err == nil {
			return true
		}
	}
	return isDatabase(l.Database())
}

// isDatabase reports whether a file is an SQLite database with kine's table. The schema is
// in the first page, which is in the write-ahead log until the first checkpoint.
func isDatabase(path string) bool {
	const most = 1 << 20 // what the schema lies in, many times over
	head, err := atomicfile.ReadHead(path, most)
	if err != nil || len(head) == 0 {
		head, _ = atomicfile.ReadHead(path+"-wal", most)
	}
	return bytes.Contains(head, []byte("SQLite format 3\x00")) && bytes.Contains(head, []byte("kine"))
}

// NodeName returns the name that the machine has joined its cluster under, "" where it
// has no certificate.
func NodeName(l layout.Layout) string {
	cert, ok := parsePair(l.NodeCert(), l.NodeCert())
	if !ok {
		return ""
	}
	name, isNode := nodeuser.Node(cert.Subject.CommonName)
	if !isNode {
		return ""
	}
	return name
}

// isAgent also requires that the parts fit together: the node's certificate is by the
// cluster's CA for clients, if that is there.
func isAgent(l layout.Layout) bool {
	node, ok := parsePair(l.NodeCert(), l.NodeCert())
	if !ok || len(readBundle(l.ClusterCA())) == 0 {
		return false
	}
	if _, isNode := nodeuser.Node(node.Subject.CommonName); !isNode {
		return false
	}
	authorities := readBundle(l.ClientCA())
	for _, ca := range authorities {
		if node.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return len(authorities) == 0
}

// readBundle returns the certificates in a file, or none if one of them is damaged.
func readBundle(path string) []*x509.Certificate {
	text, err := atomicfile.ReadTarget(path)
	if err != nil {
		return nil
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		out = append(out, cert)
	}
	return out
}

func hasPrograms(l layout.Layout) bool {
	versions, _ := os.ReadDir(l.Payload())
	for _, v := range versions {
		if len(Programs(l.Version(v.Name()))) > 0 {
			return true
		}
	}
	return false
}

// isRest reports whether neither a control plane nor a node is left, or whether everything
// in the way has one of brink's own names.
func isRest(l layout.Layout) bool {
	if !exists(l.Server()) && !exists(l.Agent()) {
		return true
	}
	_, inTheWay, err := inspect(l)
	for _, rel := range inTheWay {
		if layout.DataName(rel) != layout.File {
			return false
		}
	}
	return err == nil
}

// isLedger reports whether a file is a ledger of a brink that wrote no mark: lines of a kind
// and an absolute path. Kinds that package ledger has got since are not among these.
func isLedger(path string) bool {
	text, err := atomicfile.Read(path)
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

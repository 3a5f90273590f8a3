// Package nodeuser names the Kubernetes user that a node acts as. The Node authorizer
// and NodeRestriction know nodes by it; it is what the certificates of kubelets assert
// (k8s.io/kubernetes/pkg/auth/nodeidentifier).
package nodeuser

import (
	"crypto/x509/pkix"
	"regexp"
	"strings"
)

// MaxNodeName is the length of a node's name at most, in bytes: that of a label's value,
// as the kubelet puts the name into the label kubernetes.io/hostname.
const MaxNodeName = 63

var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// HasNodeNameForm reports whether a name has the form of a node's, whatever its length: a
// subdomain by RFC 1123, of lower-case letters, digits, '-' and '.'.
func HasNodeNameForm(name string) bool { return subdomain.MatchString(name) }

// Group is the user group of all nodes.
const Group = "system:nodes"

// Prefix begins the user name of a node; the node's name follows.
const Prefix = "system:node:"

// Name returns the user name of a node.
func Name(node string) string { return Prefix + node }

// Node returns the name of the node that has this user name, and reports whether it is a
// node's. Like upstream it takes Prefix alone for a node's too, one of the empty name.
func Node(user string) (node string, ok bool) { return strings.CutPrefix(user, Prefix) }

// Subject returns the subject of a node's certificates.
func Subject(node string) pkix.Name {
	return pkix.Name{CommonName: Name(node), Organization: []string{Group}}
}

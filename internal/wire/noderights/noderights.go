// Package noderights has the two headers about the rights of a node's certificate. With an
// answer 401 servers say why they do not accept the certificate any more; they say it only
// to a machine whose certificate the cluster has signed, all others get a bare 401. With
// each request agents prove whose the certificate is, for servers that have lost the record
// of it.
package noderights

// Proof is the header of a request with nodekey's proof for the certificate by which the
// request is made.
const Proof = "Brink-Node-Proof"

// Header says why a node's certificate is refused, by one of the values below.
const Header = "Brink-Node-Refused"

const (
	// Deleted is a node that was deleted from the cluster.
	Deleted = "deleted"
	// Replaced is a name that has other certificates now: those of another machine, or of
	// the same machine after it has joined again.
	Replaced = "replaced"
)

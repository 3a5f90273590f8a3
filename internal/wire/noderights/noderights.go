// Package noderights is what servers tell a machine whose certificate they do not
// take any more, and agents understand: a header of the answer 401. Who gets it has
// proved that the cluster once signed its certificate; others get a bare 401. And it
// is what agents tell with each request, so that a server whose record of a
// certificate was lost knows whose it is.
package noderights

// Proof is the header of a request with nodekey's proof for the certificate by which
// it is made.
const Proof = "Brink-Node-Proof"

// Header says why a node's certificate is refused, by one of the values below.
const Header = "Brink-Node-Refused"

const (
	// Deleted is a node that was deleted from the cluster.
	Deleted = "deleted"
	// Replaced is a name that has other certificates now: of another machine, or of
	// the same one after it has joined again.
	Replaced = "replaced"
)

package jointoken

import "time"

// Paths of a server's HTTPS port that a machine asks before the cluster knows
// it.
const (
	// CAPath answers with the server CA in PEM, to be held against a token's hash.
	CAPath = "/cacerts"
	// StatusPath answers with what has become of the bootstrap token in the header
	// Authorization: a Status in JSON, and 200 for Valid, 410 for Expired and
	// Deleted, 401 for Unknown. The API server itself answers 401 to all three of
	// the latter.
	StatusPath = "/brink/v1/token"
)

// State of a token.
type State string

const (
	Valid   State = "valid"
	Expired State = "expired"
	Deleted State = "deleted"
	// Unknown also is a wrong secret, and what was expired or deleted so long ago
	// that it was forgotten.
	Unknown State = "unknown"
)

// Status of a token, for the one who holds it.
type Status struct {
	State State `json:"state"`
	// Since is when the token expired or was deleted.
	Since *time.Time `json:"since,omitempty"`
}

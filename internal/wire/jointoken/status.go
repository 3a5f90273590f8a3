package jointoken

import "time"

// Paths of a server's HTTPS port that answer a machine before the cluster knows it.
const (
	// CAPath answers with the server CA in PEM, to be compared with a token's hash.
	CAPath = "/cacerts"
	// StatusPath answers with the state of the bootstrap token in the header
	// Authorization: a Status in JSON, with the code 200 for Valid, 410 for Expired and
	// Deleted, and 401 for Unknown. The API server itself answers 401 to the last three.
	StatusPath = "/brink/v1/token"
)

// State is the state of a token.
type State string

const (
	Valid   State = "valid"
	Expired State = "expired"
	Deleted State = "deleted"
	// Unknown is also the state of a token with a wrong secret, and of one that expired or
	// was deleted so long ago that it is not remembered.
	Unknown State = "unknown"
)

// Status is what the holder of a token is told about it.
type Status struct {
	State State `json:"state"`
	// Since is when the token expired or was deleted.
	Since *time.Time `json:"since,omitempty"`
}

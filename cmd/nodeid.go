package cmd

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// nodeID is the form of what --with-node-id appends to a name, as k3s has it.
var nodeID = regexp.MustCompile(`^[0-9a-f]{8}$`)

// withNodeID returns the name with an id that is this machine's: that of the file, or a new
// one. The start writes the file; reading flags, as `brink check` does, makes none.
func withNodeID(name string, l layout.Layout) (withID, id string, err error) {
	text, err := atomicfile.Read(l.NodeID())
	if errors.Is(err, fs.ErrNotExist) {
		random := make([]byte, 4)
		_, _ = rand.Read(random) // never fails
		id = hex.EncodeToString(random)
		return name + "-" + id, id, nil
	}
	if err != nil {
		return "", "", fmt.Errorf("--with-node-id: %w", err)
	}
	if id = strings.TrimSpace(string(text)); !nodeID.MatchString(id) {
		return "", "", fmt.Errorf("--with-node-id: %s has %.20q, which is no id of eight hexadecimal digits: remove the file, and the node gets another name", l.NodeID(), id)
	}
	return name + "-" + id, id, nil
}

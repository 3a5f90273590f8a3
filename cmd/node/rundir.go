package node

import (
	"fmt"
	"os"
)

// runDirMode lets every user pass through the run directory and none list it. Containers
// of pods with user namespaces (hostUsers: false) have their roots below it, and their
// root user is an ordinary one of the machine. What lies in it has modes of its own:
// sockets and files 0600, directories 0700, except for containerd's.
const runDirMode = 0o711

// makeRunDir makes the run directory, or corrects the mode of an existing one: an older
// brink, or a unit with RuntimeDirectory=, has made it with another.
func makeRunDir(dir string) error {
	if err := os.MkdirAll(dir, runDirMode); err != nil {
		return fmt.Errorf("making the run directory: %w", err)
	}
	if err := os.Chmod(dir, runDirMode); err != nil { // the umask limits the mode above
		return fmt.Errorf("opening the run directory for user namespaces: %w", err)
	}
	return nil
}

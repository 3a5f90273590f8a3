package node

import (
	"fmt"
	"os"
)

// runDirMode lets anybody pass and nobody look. Containers of pods with user
// namespaces (hostUsers: false) have their roots below the run directory, and
// their root is nobody special to the machine. What lies in it has modes of its
// own: sockets and files 0600, directories 0700, but for containerd's.
const runDirMode = 0o711

// makeRunDir makes the run directory, or repairs one that was there before: of an
// older brink, which closed it, or of a unit with RuntimeDirectory=.
func makeRunDir(dir string) error {
	if err := os.MkdirAll(dir, runDirMode); err != nil {
		return fmt.Errorf("making the run directory: %w", err)
	}
	if err := os.Chmod(dir, runDirMode); err != nil { // the umask has been at work on the mode above
		return fmt.Errorf("opening the run directory for user namespaces: %w", err)
	}
	return nil
}

// Package rootsocket listens on unix sockets that only root may connect to.
//
// The kernel creates a socket's file with the mode of the socket, 0777, less the umask. A
// chmod after the bind would leave a moment in which anybody may connect if the umask is
// open, so the socket gets its mode before it has a name. Changing the umask instead would
// change it for all threads, and for the files that they create meanwhile.
package rootsocket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
)

const mode = 0o600

// Listen listens at path, and takes it over from a process that died: the caller holds the
// lock on the data directory and so knows that no other one lives.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	listener, err := (&net.ListenConfig{Control: restrict}).Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return listener, nil
}

// restrict runs between socket and bind.
func restrict(_, _ string, conn syscall.RawConn) error {
	var err error
	if ctl := conn.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), mode) }); ctl != nil {
		return ctl
	}
	return err
}

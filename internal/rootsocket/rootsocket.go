// Package rootsocket listens on unix sockets that only root may connect to.
//
// The kernel makes a socket's file with the mode of the socket less the umask,
// and the mode of a socket is 0777. A chmod after the bind leaves a moment in
// which anybody may connect under an open umask, so the socket itself gets its
// mode before it has a name. Changing the umask instead would change it for all
// threads, and for the files that they make meanwhile.
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

// Listen takes the path over from a process that died: the caller knows that no
// other one lives, by the lock on the data directory.
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

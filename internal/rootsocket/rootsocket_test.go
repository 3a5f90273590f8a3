package rootsocket

import (
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestListen is not parallel: the umask is the process's.
func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	for _, umask := range []int{0, 0o022, 0o077} {
		before := syscall.Umask(umask)
		listener, err := Listen(path) // over the one before
		syscall.Umask(before)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("with umask %03o: %v, %v, want 0600", umask, info.Mode(), err)
		}
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		// What a process that died leaves.
		listener.(*net.UnixListener).SetUnlinkOnClose(false)
		listener.Close()
	}
}

func TestListenSaysWhere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "none", "s.sock")
	if _, err := Listen(path); err == nil || err.Error() == "" {
		t.Errorf("got %v", err)
	}
}

package node

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"brink/internal/testerror"
)

func TestNotifySystemd(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "notify-") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{filepath.Join(dir, "notify"), fmt.Sprintf("@brink-test-%d", os.Getpid())} {
		systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer systemd.Close()
		if err := notifySystemd(name, "READY=1"); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 100)
		if n, err := systemd.Read(message); string(message[:n]) != "READY=1" {
			t.Errorf("%s got %q (%v)", name, message[:n], err)
		}
	}
	if err := notifySystemd("", "READY=1"); err != nil {
		t.Errorf("without systemd: %v", err)
	}
	testerror.OneLine(t, notifySystemd(filepath.Join(dir, "nobody"), "READY=1"), filepath.Join(dir, "nobody"))
}

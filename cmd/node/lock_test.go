package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brink/internal/atomicfile"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/internal/testdisk"
	"brink/internal/testerror"
	"brink/internal/testprocess"
	"brink/network/nodeaddr"
	"brink/server"
)

func TestLockDataDir(t *testing.T) {
	t.Parallel()
	l := layout.New(filepath.Join(t.TempDir(), "made", "by the lock"))
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockDataDir(l)
	testerror.OneLine(t, err, fmt.Sprintf("%s is in use by brink with pid %d;", l.Data(), os.Getpid()))
	other, err := lockDataDir(layout.New(t.TempDir()))
	if err != nil {
		t.Errorf("another data directory is another node: %v", err)
	} else {
		other()
	}
	unlock()
	again, err := lockDataDir(l)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again()
}

// TestLockDatabase: a database is locked under all of its names.
func TestLockDatabase(t *testing.T) {
	t.Parallel()
	one, other := layout.New(t.TempDir()), layout.New(t.TempDir())
	unlock, err := lockDatabase(one)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(other.Server(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(one.DB(), other.DB()); err != nil {
		t.Fatal(err)
	}
	_, err = lockDatabase(other)
	testerror.OneLine(t, err, other.DB()+" is in use by a brink with another data directory")
	unlock()
	again, err := lockDatabase(other)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again()
}

// TestLockForgetsLongerPID: the file survives restarts, and pids differ in
// length.
func TestLockForgetsLongerPID(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	if err := os.WriteFile(l.Lock(), []byte("99999999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatalf("a leftover file is no lock: %v", err)
	}
	defer unlock()
	if got := lockHolder(l); got != fmt.Sprint(os.Getpid()) {
		t.Errorf("the holder is %s, want %d", got, os.Getpid())
	}
}

// TestLockOnFullDisk: the lock works; the host's check says that the disk is full.
func TestLockOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := testdisk.Mount(t, "tmpfs", 0, "size=16k")
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	l := layout.New(dir)
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	_, err = lockDataDir(l)
	testerror.OneLine(t, err, "in use by brink with pid unknown")
}

// TestLockBetweenProcesses has another process lock a directory until its input
// ends.
func TestLockBetweenProcesses(t *testing.T) {
	if dir := testprocess.Argument(); dir != "" {
		if _, err := lockDataDir(layout.New(dir)); err != nil {
			t.Fatal(err)
		}
		fmt.Println("locked")
		io.Copy(io.Discard, os.Stdin)
		return
	}
	t.Parallel()
	l := layout.New(t.TempDir())
	first := testprocess.Again(t, l.Data())
	if _, err := first.StdinPipe(); err != nil { // held open until Kill
		t.Fatal(err)
	}
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if line := make([]byte, len("locked")); true {
		if _, err := io.ReadFull(out, line); err != nil || string(line) != "locked" {
			t.Fatalf("the first said %q (%v)", line, err)
		}
	}
	_, err = lockDataDir(l)
	testerror.OneLine(t, err, fmt.Sprintf("with pid %d;", first.Process.Pid))
	// A power cut or kill -9 leaves no lock behind.
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatalf("after the first was killed: %v", err)
	}
	unlock()
}

// TestPrepareWithoutAgent: the addresses of a server without an agent are remembered in the
// agent's directory, which has its mode all the same.
func TestPrepareWithoutAgent(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	cfg := Config{Layout: l, Server: &server.Config{Layout: l, Addresses: nodeaddr.NewWatcher(l.NodeAddresses()), Kubeconfig: l.Kubeconfig()}}
	if err := prepare(cfg); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Keep(l.NodeAddresses(), []byte("null"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(l.Agent()); err != nil || info.Mode().Perm() != datadir.AgentMode {
		t.Errorf("got %v (%v), want %s", info, err, datadir.AgentMode)
	}
}

// TestLockWhileOthersLook: `brink status` and other starts look whether the lock is free, and
// share it for a moment. The pid in the file is that of an earlier brink.
func TestLockWhileOthersLook(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	if err := os.WriteFile(l.Lock(), []byte("99999999999\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	look, err := os.Open(l.Lock())
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close()
	if err := unix.Flock(int(look.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = unix.Flock(int(look.Fd()), unix.LOCK_UN) })
	unlock, err := lockDataDir(l)
	if err != nil {
		t.Fatalf("no brink runs: %v", err)
	}
	unlock()
}

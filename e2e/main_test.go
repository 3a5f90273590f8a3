package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var (
	brinkBinary  string
	imageArchive string
)

// scenarios is how many run at a time on the shared node: they wait more than
// they compute.
const scenarios = "6"

func TestMain(m *testing.M) {
	if dir := os.Getenv(janitorEnv); dir != "" {
		runJanitor(dir)
		return
	}
	flag.Parse()
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if err := findHost(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("/tmp", "brink-e2e-images-")
	if err != nil {
		return 1, err
	}
	if err := theJanitor.start(dir); err != nil {
		return 1, errors.Join(err, os.RemoveAll(dir))
	}
	defer theJanitor.stop()
	if err := makeImages(dir); err != nil {
		return 1, err
	}
	if err := flag.Set("test.parallel", scenarios); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, closeShared()
}

// findHost says in one line what the tests lack. They never skip: a test that
// did not run must not look like one that passed.
func findHost() error {
	if os.Getuid() != 0 {
		return errors.New("these tests make namespaces: run them as root (make test)")
	}
	path := os.Getenv("BRINK_BIN")
	if path == "" {
		path = "../bin/brink"
	}
	var err error
	if brinkBinary, err = filepath.Abs(path); err != nil {
		return err
	}
	if _, err := os.Stat(brinkBinary); err != nil {
		return fmt.Errorf("no binary to test, run `make build` first: %w", err)
	}
	for _, tool := range []struct{ name, pkg string }{
		{"ip", "iproute2"}, {"nsenter", "util-linux"}, {"nft", "nftables"},
		{busyboxPath, "busybox-static"}, {"mkfs.ext4", "e2fsprogs"},
	} {
		if _, err := exec.LookPath(tool.name); err != nil {
			return fmt.Errorf("%s is missing: apt-get install %s", tool.name, tool.pkg)
		}
	}
	return nil
}

func makeImages(dir string) error {
	server, err := buildServer(dir)
	if err != nil {
		return err
	}
	imageArchive = filepath.Join(dir, "e2e.tar")
	return writeImages(imageArchive, server)
}

// shared is the node of all scenarios that need only a cluster. It is started by
// the first of them and watched from its first Ready on.
var shared struct {
	once  sync.Once
	node  *node
	ready *readyWatch
	err   error
}

func sharedNode(t *testing.T) *node {
	t.Helper()
	shared.once.Do(startShared)
	if shared.err != nil {
		t.Fatalf("the shared node did not start: %v", shared.err)
	}
	return shared.node
}

func startShared() {
	if shared.node, shared.err = newNode(); shared.err != nil {
		return
	}
	if shared.err = shared.node.start(); shared.err != nil {
		return
	}
	shared.ready, shared.err = watchReady(shared.node)
}

// closeShared uninstalls the shared node after everything that ran on it, which
// must leave as little as any other.
func closeShared() error {
	if shared.ready != nil {
		shared.ready.stop()
	}
	var err error
	if shared.node != nil && shared.node.starts > 0 {
		err = shared.node.uninstall()
	}
	if shared.node != nil {
		err = errors.Join(err, shared.node.destroy())
	}
	if sw, _ := sharedLAN(); sw != nil {
		sw.holder.close()
	}
	return err
}

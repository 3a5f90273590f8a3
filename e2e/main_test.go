package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"brink/e2e/image"
	"brink/e2e/machine"
)

var (
	brinkBinary  string
	imageArchive string
)

// scenarios is how many run at a time on the shared node: they wait more than
// they compute.
const scenarios = "6"

func TestMain(m *testing.M) {
	if machine.RunJanitor() {
		return
	}
	flag.Parse()
	hearInterrupts()
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// hearInterrupts has what the tests start hear SIGINT, by which they end kubectl. A shell
// has its background jobs ignore the signal, and brink leaves that so.
func hearInterrupts() {
	if signal.Ignored(os.Interrupt) {
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
}

func runTests(m *testing.M) (code int, err error) {
	if err := findHost(); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("/tmp", "brink-e2e-")
	if err != nil {
		return 1, err
	}
	if janitor, err = machine.StartJanitor(dir); err != nil {
		return 1, errors.Join(err, os.RemoveAll(dir))
	}
	defer janitor.Close()
	defer keepSysctls()()
	if err := errors.Join(placeBinary(dir), makeImages(dir)); err != nil {
		return 1, err
	}
	if err := flag.Set("test.parallel", scenarios); err != nil {
		return 1, err
	}
	code = m.Run()
	return code, closeShared()
}

// placeBinary gives the binary another name, below /tmp: machines have their own
// /var and /opt and an empty /run, an ordinary user cannot look below /root, and
// a build during the tests must not change what is tested.
func placeBinary(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	from := brinkBinary
	brinkBinary = filepath.Join(dir, "brink")
	if os.Link(from, brinkBinary) == nil {
		return nil
	}
	// On another file system.
	if out, err := exec.Command("cp", from, brinkBinary).CombinedOutput(); err != nil {
		return fmt.Errorf("copying the binary: %w: %s", err, out)
	}
	return nil
}

// hostSysctls are what a kubelet sets on its host, and no namespace holds. The last
// is set here: a dozen nodes are one user's in the kernel's eyes.
var hostSysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	inotifyInstances,
}

const inotifyInstances = "fs/inotify/max_user_instances"

// keepSysctls returns what gives the host its settings back.
func keepSysctls() (restore func()) {
	before := map[string][]byte{}
	for _, name := range hostSysctls {
		if value, err := os.ReadFile("/proc/sys/" + name); err == nil {
			before[name] = value
		}
	}
	// Where it may not be written, or is more already, it is as it is.
	if has, err := strconv.Atoi(strings.TrimSpace(string(before[inotifyInstances]))); err == nil && has < 2048 {
		_ = os.WriteFile("/proc/sys/"+inotifyInstances, []byte("2048"), 0)
	}
	return func() {
		for name, value := range before {
			if err := os.WriteFile("/proc/sys/"+name, value, 0); err != nil {
				fmt.Fprintln(os.Stderr, "e2e: giving the host its setting back:", err)
			}
		}
	}
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
		{image.Busybox, "busybox-static"}, {"mkfs.ext4", "e2fsprogs"},
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
	if shared.err = shared.node.Start(); shared.err != nil {
		return
	}
	shared.ready, shared.err = watchReady(shared.node)
}

// closeShared uninstalls the shared node after everything that ran on it, which
// must leave as little as any other. Up to then it must have been Ready.
func closeShared() error {
	err := closeClusters()
	if shared.ready != nil {
		shared.ready.stop()
		if losses := shared.ready.losses(); len(losses) > 0 {
			err = errors.Join(err, fmt.Errorf("the shared node was not Ready:\n%s", strings.Join(losses, "\n")))
		}
	}
	err = errors.Join(err, shared.node.leave())
	if sw, _ := sharedLAN(); sw != nil {
		sw.Close()
	}
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"brink/internal/layout"
)

const (
	brinkName    = "brink"
	separateName = "separate"
)

// node is a running node of one of the two sides.
type node interface {
	// prepare does what is not measured, before the first start.
	prepare(ctx context.Context) error
	// start executes its programs, all at once, and waits for nothing.
	start() error
	// stop ends them in order and leaves pods running.
	stop() error
	// running are its programs.
	running() []*program
	// size is that of all files that the node consists of, in bytes.
	size() (int64, error)
	// kubeconfig is the administrator's, a path outside.
	kubeconfig() string
	// importImage makes an archive's images available to pods.
	importImage(ctx context.Context, archive string) error
	// logs is the end of what its programs wrote.
	logs() string
}

type side struct {
	name, title string
	newNode     func(settings, *testbed) (node, error)
}

// sides are what is compared, in the order of the table's columns.
var sides = []side{
	{brinkName, "brink", newBrink},
	{separateName, "separate processes", newSeparate},
}

// copyProgram copies a program into the machine's directory: a file that others
// run too would share its pages with them and so look smaller. Copying also puts
// it into the page cache, so that no side's start waits for the disk.
func copyProgram(m *testbed, from, name string) (string, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", fmt.Errorf("%w; run scripts/bench, which builds it", err)
	}
	defer in.Close()
	to := filepath.Join(m.Dir, "bin", name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	// Written back now and not while something is measured.
	return to, errors.Join(err, out.Sync(), out.Close())
}

// brinkNode is brink with its defaults.
type brinkNode struct {
	*testbed
	server *program
}

func newBrink(s settings, m *testbed) (node, error) {
	path, err := copyProgram(m, s.brink, "brink")
	if err != nil {
		return nil, err
	}
	b := &brinkNode{testbed: m}
	argv := []string{path, "server", "--data-dir", b.data(), "--write-kubeconfig", b.kubeconfig(), "--kubelet-arg=cgroup-root=/" + m.ID}
	if s.profiles != "" {
		argv = append(argv, "--enable-pprof")
	}
	b.server = &program{testbed: m, name: "brink", argv: argv}
	return b, nil
}

func (b *brinkNode) data() string       { return filepath.Join(b.Dir, "data") }
func (b *brinkNode) kubeconfig() string { return filepath.Join(b.Dir, "admin.kubeconfig") }
func (b *brinkNode) logs() string       { return b.logTail("brink") }

// statusSocket is where profiles are served.
func (b *brinkNode) statusSocket() string { return b.Inside(layout.New(b.data()).StatusSocket()) }

// prepare does nothing: brink brings all that a sandbox needs at its start.
func (b *brinkNode) prepare(context.Context) error { return nil }

// saved is when leases and events were last written to the disk.
func (b *brinkNode) saved() (time.Time, error) {
	info, err := os.Stat(filepath.Join(layout.New(b.data()).DB(), "volatile.snapshot"))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (b *brinkNode) start() error        { return b.server.start() }
func (b *brinkNode) stop() error         { return b.server.stop() }
func (b *brinkNode) running() []*program { return []*program{b.server} }

func (b *brinkNode) size() (int64, error) { return sizeOf(b.server.argv[0]) }

func (b *brinkNode) importImage(ctx context.Context, archive string) error {
	out, err := b.command(ctx, b.server.argv[0], "images", "import", "--data-dir", b.data(), archive).CombinedOutput()
	if err != nil {
		return fmt.Errorf("importing %s: %w: %s", archive, err, out)
	}
	return nil
}

// sizeOf adds up files; of a directory those in it.
func sizeOf(paths ...string) (total int64, err error) {
	for _, path := range paths {
		err := filepath.Walk(path, func(_ string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				total += info.Size()
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// Package uninstall takes away what a node made, and only that. Three rules:
//
//   - Ownership is proven, never guessed from a name: a process by the program
//     file it runs, a cgroup by the pod it was for or by what was written down
//     before it was made, a CNI result by the configuration in it, a kubeconfig
//     by its CA. What cannot be proven stays.
//   - No file is removed across a mount: a volume that cannot be unmounted is
//     somebody's data.
//   - What fails is reported and the rest goes on. The record of what brink made
//     stays until all of it is gone, so that the command can be given again.
package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"brink/agent/join"
	"brink/agent/ledger"
	"brink/internal/layout"
)

// Config says what to uninstall.
type Config struct {
	Layout layout.Layout
	// KeepData keeps all files that survive a reboot: only pods, mounts, links,
	// rules and cgroups go, as by a reboot.
	KeepData bool
	// Grace is how long containers have between SIGTERM and SIGKILL; 0 is 5 s.
	Grace time.Duration
	// RemoveProxy removes the service proxy's rules. It is the caller's, for that
	// package costs minutes to compile.
	RemoveProxy func(context.Context) error
	// Removed and Kept are told one line for each kind of thing.
	Removed, Kept func(what string)
}

const defaultGrace = 5 * time.Second

// run is one call of Run.
type run struct {
	Config
	entries []ledger.Entry
	bundles []bundle
	errs    []error
}

// Run removes the node. No brink may run on the data directory, which the
// caller sees to by holding its lock. The error joins one for each thing that
// stayed. A node that is half gone already, or gone, is no error.
func Run(ctx context.Context, cfg Config) error {
	if err := CheckDataDir(cfg.Layout); err != nil {
		return err
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	entries, err := ledger.Read(cfg.Layout.Made())
	if err != nil {
		return err
	}
	u := &run{Config: cfg, entries: entries, bundles: readBundles(cfg.Layout.ContainerdState())}
	if err := u.removePods(ctx); err != nil {
		return err // without this nothing below can work
	}
	u.removeNetwork(ctx) // before the network namespaces, which take links away at their leisure
	u.removeMounts()
	u.removeCgroups(ctx)
	if !cfg.KeepData {
		u.removeOutside()
	}
	u.removeOwn()
	return errors.Join(u.errs...)
}

// Guest is the name of the node in a cluster whose server is elsewhere, which an
// uninstalled machine leaves there; "" on a server's own machine.
func Guest(l layout.Layout) string {
	if _, err := os.Stat(l.Server()); err == nil {
		return ""
	}
	return join.NodeName(l.KubeletCerts())
}

// Installed tells whether there is something to uninstall.
func Installed(l layout.Layout) bool {
	if entries, err := os.ReadDir(l.Data()); err == nil && len(entries) > 0 {
		return true
	}
	for _, path := range []string{l.Run(), l.NodePassword()} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return len(payloadProcesses(l)) > 0 || hasNetwork(context.Background(), l)
}

func (u *run) failed(err error) {
	if err != nil {
		u.errs = append(u.errs, err)
	}
}

// removed reports "3 mounts" and the like.
func (u *run) removed(count int, singular, plural string) {
	if count > 0 {
		u.Removed(number(count, singular, plural))
	}
}

func number(count int, singular, plural string) string {
	if count == 1 {
		return "1 " + singular
	}
	return strconv.Itoa(count) + " " + plural
}

// made returns the recorded paths of a kind.
func (u *run) made(kind string) []string {
	var out []string
	for _, t := range u.entries {
		if t.Kind == kind {
			out = append(out, t.Path)
		}
	}
	return out
}

func (u *run) hasMade(dir string) bool {
	return slices.Contains(u.entries, ledger.Entry{Kind: ledger.Dir, Path: dir})
}

// neverData are directories that are no data directory whatever lies in them.
var neverData = []string{"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc",
	"/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/lib", "/var/log", "/var/run", "/var/tmp"}

// marks are what only a data directory of brink contains.
var marks = []string{"made", "server/tls/server-ca.crt", "server/db/state.db", "agent/containerd", "agent/images", "agent/pki", "agent/cni/net.d/10-brink.conflist"}

// CheckDataDir refuses directories in which brink has not kept its data. One
// that is empty or not there is fine: nothing can be lost in it.
func CheckDataDir(l layout.Layout) error {
	dir := resolve(l.Data())
	if slices.Contains(neverData, dir) {
		return fmt.Errorf("%s is a directory of the system, not brink's: give the --data-dir that brink was started with", dir)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking into the data directory: %w", err)
	}
	if len(entries) == 1 && isLock(l.Lock()) {
		return nil // of a brink that refused to start
	}
	for _, mark := range marks {
		if _, err := os.Lstat(filepath.Join(dir, mark)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is not a data directory of brink, nothing was removed: give the --data-dir that brink was started with", dir)
}

// isLock tells whether a file is the lock: it holds a process id, or nothing.
func isLock(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 16 {
		return false
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	_, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil || len(text) == 0
}

// resolve follows links as far as the path exists. The kernel names programs
// and mounts by what it yields.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(resolve(dir), filepath.Base(path))
	}
	return path
}

// waitFor asks until done says yes, and returns false when the time is over.
func waitFor(ctx context.Context, limit time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true
}

// Package uninstall removes what a node made, and only that. The rules:
//
//   - Ownership is proven, never guessed from a name: a process by the program
//     file it runs, a cgroup by its pod or by the record that was written before it
//     was made, a CNI result by the configuration in it, a kubeconfig by its CA. What
//     cannot be proven stays.
//   - In the data directory, which has brink's mark, only names that brink uses there
//     (package layout) are removed. What the user put there, before the first start or
//     later, stays and is named. A link stays, and so does what it leads to. Pods'
//     directories and logs are recognized by the list of the node's pods. The contents of
//     volumes are the user's. Only an emptyDir, a volume that is part of its pod, goes
//     with the pod.
//   - No file is removed across a mount: a volume that cannot be unmounted is
//     somebody's data. What somebody else has mounted in the node's directories stays
//     mounted and is named.
//   - Kernel settings get their old value back where they still have brink's.
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
	"syscall"
	"time"

	"brink/agent/ledger"
	"brink/internal/datadir"
	"brink/internal/layout"
)

// Config is what to uninstall, and what to keep.
type Config struct {
	Layout layout.Layout
	// KeepData keeps all files. Only pods, mounts, links, rules and cgroups are removed,
	// as by a reboot.
	KeepData bool
	// Grace is how long containers have between the signal to stop and SIGKILL; 0 is
	// 5 s. With Stops it is the most that any gets, and 0 is no limit.
	Grace time.Duration
	// Stops returns how containers want to be stopped, by id. Without it, all get SIGTERM
	// and Grace. The caller supplies it: it knows containerd's database.
	Stops func() (map[string]Stop, error)
	// RemoveProxy removes the service proxy's rules, RemovePrograms the embedded
	// programs from a directory. The caller supplies them: one of their packages costs
	// minutes to compile, the other brings 7 MB.
	RemoveProxy    func(context.Context) error
	RemovePrograms func(dir string) error
	// Removed and Kept are called with one line for each kind of thing.
	Removed, Kept func(what string)
}

// Stop is how a container wants to be stopped.
type Stop struct {
	Signal syscall.Signal
	Grace  time.Duration
}

const (
	// hastyGrace is for a node that is removed.
	hastyGrace = 5 * time.Second
	// podGrace is what a pod gets that asks for nothing, as the API's default.
	podGrace = 30 * time.Second
)

// run is one call of Run.
type run struct {
	Config
	entries     []ledger.Entry
	bundles     []bundle
	pods        map[string]bool   // of this node, by uid
	preexisting []string          // what the user put below the data directory before the first start
	links       map[string]string // the user's links to directories that were empty before
	errs        []error

	keptMounts     []string // of somebody else, named already
	keepsSelfBinds bool     // the kubelet's directory stays mounted on itself

	// ownsKubelet is whether the kubelet's directory was this node's from the start,
	// sharesKubelet whether another kubelet uses it or has used it since.
	ownsKubelet, sharesKubelet bool
}

// Run removes the node. No brink may run on the data directory, which the caller ensures
// by holding its lock. The error joins one for each thing that could not be removed. It is
// not an error if the node is gone already, or half gone.
func Run(ctx context.Context, cfg Config) error {
	if err := CheckDataDir(cfg.Layout); err != nil {
		return err
	}
	if cfg.Grace == 0 && cfg.Stops == nil {
		cfg.Grace = hastyGrace
	}
	entries, err := ledger.Read(cfg.Layout.Made())
	if err != nil {
		return err
	}
	u := newRun(cfg, entries)
	if original, isCopy := datadir.CopyOf(cfg.Layout); isCopy {
		u.Kept(fmt.Sprintf("all outside of %s: it is a copy of %s, whose node that is", cfg.Layout.Data(), original))
		u.removeOwn()
		return errors.Join(u.errs...)
	}
	if err := u.removePods(ctx); err != nil {
		return err // without this nothing below can work
	}
	u.sharesKubelet = u.isShared() // not before brink has let go of its sockets
	u.removeNetwork(ctx)           // before the network namespaces, which take links away at their leisure
	u.removeMounts()
	u.removeCgroups(ctx)
	if !cfg.KeepData {
		u.removeSettings()
		u.removeOutside()
	}
	u.removeOwn()
	return errors.Join(u.errs...)
}

func newRun(cfg Config, entries []ledger.Entry) *run {
	u := &run{Config: cfg, entries: entries, bundles: readBundles(cfg.Layout.ContainerdState()), pods: ledger.ReadPods(cfg.Layout)}
	for _, b := range u.bundles {
		if b.pod != "" {
			u.pods[b.pod] = true
		}
	}
	u.preexisting, u.links = datadir.Preexisting(cfg.Layout), datadir.Links(cfg.Layout)
	u.ownsKubelet = ledger.Owns(cfg.Layout, entries)
	return u
}

// isShared reports whether another kubelet uses this one's directory or has used it: its
// configuration, or one of its pods, is there.
func (u *run) isShared() bool {
	kubelet := u.Layout.Kubelet()
	if layout.IsBelow(kubelet, u.Layout.Data()) {
		return false
	}
	if ledger.IsShared(kubelet) || kubelet == ledger.KubeletDir && kubeletLives() {
		return true
	}
	pods, _ := os.ReadDir(filepath.Join(kubelet, "pods"))
	return slices.ContainsFunc(pods, func(e fs.DirEntry) bool { return !u.pods[e.Name()] })
}

// NodeLeftBehind returns the name of the Node that uninstalling leaves in a cluster whose
// server is elsewhere, or "" on a server's own machine.
func NodeLeftBehind(l layout.Layout) string {
	if _, err := os.Stat(l.Server()); err == nil {
		return ""
	}
	return datadir.NodeName(l)
}

// Installed reports whether there is something to uninstall.
func Installed(l layout.Layout) bool {
	if datadir.Owns(l) {
		return true
	}
	for _, path := range []string{l.Run(), l.NodePassword()} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return len(payloadProcesses(l)) > 0 || hasNetwork(l)
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

// CheckDataDir refuses directories that are not brink's. Those in which brink could start
// are fine: nothing is removed in them.
func CheckDataDir(l layout.Layout) error {
	if err := datadir.CheckSystem(l); err != nil {
		return err
	}
	if datadir.Check(l) != nil {
		return fmt.Errorf("%s is not a data directory of brink, nothing was removed: give the --data-dir that brink was started with", l.Data())
	}
	return nil
}

// waitFor polls until done returns true. It returns false when the time is over.
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

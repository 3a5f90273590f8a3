package uninstall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"brink/agent/ledger"
	"brink/internal/atomicfile"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/internal/removetree"
)

// mostNamed is how many kept things are named; the others are counted.
const mostNamed = 20

// last returns the files that another attempt would need. They are removed when nothing
// else is left, and the mark after all others, since without it they are nobody's.
func last(l layout.Layout) []string {
	return []string{l.Pods(), l.Made(), l.Lock(), l.Mark()}
}

// verdictOf returns what happens to a name of a kind.
func verdictOf(kind layout.Kind) removetree.Verdict {
	switch kind {
	case layout.Directory:
		return removetree.Enter
	case layout.File, layout.Tree:
		return removetree.Remove
	}
	return removetree.Keep
}

// inData returns the verdict on a path relative to the data directory.
func (u *run) inData(rel string) removetree.Verdict {
	path := u.Layout.InData(rel)
	dir, base := filepath.Split(path)
	switch {
	case slices.Contains(last(u.Layout), path), slices.Contains(u.preexisting, rel):
		return removetree.Keep
	case u.Layout.HasElsewhere(rel):
		return removetree.Keep
	case filepath.Clean(dir) == u.Layout.PodLogs():
		return u.podVerdict(ledger.PodOfLogs(base))
	case layout.IsBelow(path, u.Layout.Kubelet()) && path != u.Layout.Kubelet():
		below, _ := filepath.Rel(u.Layout.Kubelet(), path)
		return u.inKubelet(below)
	}
	return verdictOf(layout.DataName(rel))
}

// inKubelet returns the verdict on a path relative to the kubelet's directory. Names that
// all kubelets use there are this node's while no other kubelet has come.
func (u *run) inKubelet(rel string) removetree.Verdict {
	dir, base := filepath.Split(rel)
	if dir == "pods/" {
		return u.podVerdict(base)
	}
	kind := layout.KubeletName(rel)
	if kind == layout.Directory || u.ownsKubelet && !u.sharesKubelet || u.isOwnState(rel, kind) {
		return verdictOf(kind)
	}
	return removetree.Keep
}

// isOwnState reports whether a file or tree of the kubelet's is this node's in a
// directory that is not: it was recorded before the node's kubelet made it. If another
// kubelet has come since, it may be the other's by now. A file is then still this node's
// if no kubelet runs and it names no pods but this node's. A tree never is: what is in it,
// such as records of images that were pulled, does not name pods.
func (u *run) isOwnState(rel string, kind layout.Kind) bool {
	path := u.Layout.InKubelet(rel)
	if !slices.Contains(u.entries, ledger.Entry{Kind: ledger.KubeletFile, Path: path}) {
		return false
	}
	if !u.sharesKubelet {
		return true
	}
	return kind == layout.File && !kubeletLives() && u.namesOwnPods(path)
}

// podUIDs matches the uids of pods: those that the API server gives, and those of static
// pods, which are hashes.
var podUIDs = regexp.MustCompile(`\b([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32})\b`)

// namesOwnPods reports whether a file can be read and names no pod but this node's.
func (u *run) namesOwnPods(path string) bool {
	text, err := atomicfile.Read(path)
	if err != nil {
		return false
	}
	for _, uid := range podUIDs.FindAllString(string(text), -1) {
		if !u.pods[uid] {
			return false
		}
	}
	return true
}

// kubeletLives reports whether a kubelet uses the one place that all kubelets have.
func kubeletLives() bool { return listenerOf(ledger.DevicePluginSocket) != 0 }

// podVerdict returns the verdict on a pod's directory. It goes with the pod, emptyDirs
// included. What was mounted in it is unmounted before.
func (u *run) podVerdict(uid string) removetree.Verdict {
	if u.pods[uid] {
		return removetree.Remove
	}
	return removetree.Keep
}

// sift removes from a directory, which may be shared with others, what judge selects.
func (u *run) sift(dir string, judge func(string) removetree.Verdict) {
	kept, err := removetree.Contents(dir, judge)
	u.failed(err)
	u.reportKept(kept)
}

// reportKept names what was not removed.
func (u *run) reportKept(kept []removetree.Kept) {
	named := 0
	for _, k := range kept {
		if slices.Contains(append(last(u.Layout), u.Layout.SelfBinds()), k.Path) || filepath.Base(k.Path) == "lost+found" {
			continue
		}
		if u.emptyTargetOf(k.Path) {
			continue
		}
		if named++; named > mostNamed {
			continue
		}
		u.Kept(datadir.Show(k.Path) + ", " + u.whyKept(k))
	}
	if named > mostNamed {
		u.Kept(fmt.Sprintf("%d more beside these", named-mostNamed))
	}
}

func (u *run) whyKept(k removetree.Kept) string {
	if strings.HasPrefix(k.Why, removetree.IsLink) {
		return k.Why + ": what brink has kept there stays, remove it by hand"
	}
	rel, err := filepath.Rel(datadir.Resolve(u.Layout.Kubelet()), k.Path)
	if err == nil && u.sharesKubelet && layout.KubeletName(rel) != layout.Foreign {
		return "which another kubelet uses too"
	}
	return "which is not brink's"
}

// emptyTargetOf empties the directory behind a link, if the link was there before brink's
// first start and led to an empty directory. Both are the user's and stay. It reports
// whether the link is such a one.
func (u *run) emptyTargetOf(path string) bool {
	rel, err := filepath.Rel(u.Layout.Data(), path)
	target, wasThere := u.links[rel]
	if err != nil || !wasThere || datadir.Resolve(path) != target {
		return false
	}
	u.Kept(fmt.Sprintf("%s, a link to %s", path, target))
	u.sift(target, func(below string) removetree.Verdict { return u.inData(filepath.Join(rel, below)) })
	return true
}

// removeOwn removes the run directory and, unless data is kept, what is brink's in the
// data directory. The record of what was made and the lock are removed last, and only if
// nothing failed.
func (u *run) removeOwn() {
	u.removeRun()
	data := u.Layout.Data()
	if _, err := os.Lstat(data); err != nil || u.KeepData {
		return
	}
	if !datadir.Owns(u.Layout) {
		u.failed(os.Remove(u.Layout.Lock())) // that this command has taken
		return
	}
	u.failed(u.RemovePrograms(u.Layout.Payload()))
	u.sift(data, u.inData)
	if len(u.errs) > 0 {
		return
	}
	for _, path := range last(u.Layout) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			u.failed(fmt.Errorf("removing files: %w", err))
			return
		}
		if dir := filepath.Dir(path); dir == u.Layout.Agent() && !slices.Contains(u.preexisting, "agent") {
			_ = rmdir(dir) // nothing else may be in it
		}
	}
	u.removeDataDir(data)
}

func (u *run) removeRun() {
	run := u.Layout.Run()
	if _, err := os.Lstat(run); err != nil {
		return
	}
	u.sift(run, func(rel string) removetree.Verdict {
		if u.keepsSelfBinds && filepath.Join(run, rel) == u.Layout.SelfBinds() {
			return removetree.Keep // for another attempt
		}
		return verdictOf(layout.RunName(rel))
	})
	u.removeEmpty(run)
}

// removeEmpty removes a directory that is empty and not a link.
func (u *run) removeEmpty(dir string) bool {
	if rmdir(dir) != nil {
		return false
	}
	u.Removed(dir)
	return true
}

// removeDataDir removes the data directory unless it is a mount point or holds something
// of the user's.
func (u *run) removeDataDir(data string) {
	if u.removeEmpty(data) {
		return
	}
	entries, err := os.ReadDir(data)
	isOther := func(e fs.DirEntry) bool { return e.Name() != "lost+found" }
	switch {
	case err == nil && !slices.ContainsFunc(entries, isOther):
		u.Removed("everything in " + data)
	default:
		u.Removed("what brink had in " + data)
	}
}

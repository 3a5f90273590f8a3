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

// mostNamed is how many kept things are named one by one.
const mostNamed = 20

// last are what a next try needs: they go when nothing else is left to remove. The
// mark comes at the end of them, without it the others are nobody's.
func last(l layout.Layout) []string {
	return []string{l.Pods(), l.Made(), l.Lock(), l.Mark()}
}

// verdictOf says what becomes of what has a name of a kind.
func verdictOf(kind layout.Kind) removetree.Verdict {
	switch kind {
	case layout.Directory:
		return removetree.Enter
	case layout.File, layout.Tree:
		return removetree.Remove
	}
	return removetree.Keep
}

// inData judges a path relative to the data directory.
func (u *run) inData(rel string) removetree.Verdict {
	path := u.Layout.InData(rel)
	dir, base := filepath.Split(path)
	switch {
	case slices.Contains(last(u.Layout), path), slices.Contains(u.laid, rel):
		return removetree.Keep
	case u.Layout.HasElsewhere(rel):
		return removetree.Keep
	case filepath.Clean(dir) == u.Layout.PodLogs():
		return u.ofPod(ledger.PodOfLogs(base))
	case layout.IsBelow(path, u.Layout.Kubelet()) && path != u.Layout.Kubelet():
		below, _ := filepath.Rel(u.Layout.Kubelet(), path)
		return u.inKubelet(below)
	}
	return verdictOf(layout.DataName(rel))
}

// inKubelet judges a path relative to the kubelet's directory. What every kubelet
// has there under the same name is ours while no other has come.
func (u *run) inKubelet(rel string) removetree.Verdict {
	dir, base := filepath.Split(rel)
	if dir == "pods/" {
		return u.ofPod(base)
	}
	kind := layout.KubeletName(rel)
	if kind == layout.Directory || u.ownsKubelet && !u.sharesKubelet || u.isOwnState(rel, kind) {
		return verdictOf(kind)
	}
	return removetree.Keep
}

// isOwnState reports whether a file or tree of the kubelet's is this node's in a
// directory that is not: it was recorded before the node's kubelet made it. Where another
// kubelet has come since it may be the other's by now. Of a file what is in it decides:
// one that names no pod but this node's says nothing of the other's. What is in a tree,
// such as images that were pulled, names no pods.
func (u *run) isOwnState(rel string, kind layout.Kind) bool {
	path := u.Layout.InKubelet(rel)
	if !slices.Contains(u.entries, ledger.Entry{Kind: ledger.KubeletHas, Path: path}) {
		return false
	}
	if !u.sharesKubelet {
		return true
	}
	return kind == layout.File && !kubeletLives() && u.namesOwnPods(path)
}

// podUIDs are those of the API server's pods and of static ones, which are hashes.
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

// ofPod: a pod's directory goes with the pod, emptyDirs too; what was mounted in it
// is not in it any more.
func (u *run) ofPod(uid string) removetree.Verdict {
	if u.pods[uid] {
		return removetree.Remove
	}
	return removetree.Keep
}

// sift removes what judge says from a directory that is shared with others.
func (u *run) sift(dir string, judge func(string) removetree.Verdict) {
	kept, err := removetree.Sift(dir, judge)
	u.failed(err)
	u.keep(kept)
}

// keep tells what was not removed.
func (u *run) keep(kept []removetree.Kept) {
	said := 0
	for _, k := range kept {
		if slices.Contains(last(u.Layout), k.Path) || filepath.Base(k.Path) == "lost+found" {
			continue
		}
		if u.followLaid(k.Path) {
			continue
		}
		if said++; said > mostNamed {
			continue
		}
		u.Kept(datadir.Show(k.Path) + ", " + u.whyKept(k))
	}
	if said > mostNamed {
		u.Kept(fmt.Sprintf("%d more beside these", said-mostNamed))
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

// followLaid empties what a link leads to that lay there, with nothing behind it,
// before brink came. Link and directory are the user's and stay.
func (u *run) followLaid(path string) bool {
	rel, err := filepath.Rel(u.Layout.Data(), path)
	target, isLaid := u.links[rel]
	if err != nil || !isLaid || datadir.Resolve(path) != target {
		return false
	}
	u.Kept(fmt.Sprintf("%s, a link to %s", path, target))
	u.sift(target, func(below string) removetree.Verdict { return u.inData(filepath.Join(rel, below)) })
	return true
}

// removeOwn removes the run directory and, unless it is to be kept, what is
// brink's in the data directory. The record of what was made and the lock go
// last, and only when nothing failed.
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
		if dir := filepath.Dir(path); dir == u.Layout.Agent() && !slices.Contains(u.laid, "agent") {
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
	u.sift(run, func(rel string) removetree.Verdict { return verdictOf(layout.RunName(rel)) })
	u.removeEmpty(run)
}

// removeEmpty removes a directory in which nothing is, and no link.
func (u *run) removeEmpty(dir string) bool {
	if rmdir(dir) != nil {
		return false
	}
	u.Removed(dir)
	return true
}

// removeDataDir leaves a directory alone that is a mount point or holds something
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

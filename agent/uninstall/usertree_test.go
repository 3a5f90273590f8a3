package uninstall

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"brink/agent/ledger"
	"brink/internal/datadir"
	"brink/internal/layout"
)

// userTrees plants what a user, or another product, may have beside brink's files:
// files, links, hard links, mounts, under names that are brink's, look like them or
// are anything. Names that the tables of package layout know as brink's files are
// brink's, whoever writes them, once it has started, and are planted before that only.
type userTrees struct {
	*testing.T
	random  *rand.Rand
	outside string          // a directory of the user's that brink has nothing to do with
	planted map[string]bool // paths, each with what is below it
	mounts  []string
	foreign bool // another kubelet's files are among them
}

// names are those of brink, of k3s, kubeadm, docker and of people.
var names = []string{
	"agent", "server", "data", "containerd", "images", "pki", "tls", "db", "cni", "state", "brink", "pods", "kubelet", "registries",
	"photos", "backup.db", "state.db.bak", "server-ca.crt.old", "io.containerd", "node-password.txt", "config.toml", "cred", "etc",
	"lock.txt", "made.txt", ".made", ".brink.mark", ".unpack-mine", "chunk", "a b", "ü\n", "-rf", "*", "volumes", "config.yaml", "kubeadm-flags.env",
	"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "default_web_0b0e7a52-7a8c-4a4e-9a34-000000000000", "0b0e7a52-7a8c-4a4e-9a34-000000000000", "..data",
}

func (u *userTrees) pick(from []string) string { return from[u.random.IntN(len(from))] }

// plant puts one to eight things into some of the directories.
func (u *userTrees) plant(roots []string, isBrinks func(path string) bool) {
	u.Helper()
	for range 1 + u.random.IntN(8) {
		dir := u.pick(u.directories(u.pick(roots), isBrinks))
		path := filepath.Join(dir, u.pick(names))
		if _, err := os.Lstat(path); err == nil || isBrinks(path) {
			continue
		}
		if err := u.make(path); err != nil {
			u.Fatal(err)
		}
		u.planted[path] = true
		base := filepath.Base(path)
		inKubelet := dir == "/var/lib/kubelet" && slices.Contains([]string{"config.yaml", "pki", "kubeadm-flags.env"}, base)
		u.foreign = u.foreign || inKubelet || dir == "/var/lib/kubelet/pods"
	}
}

// brinksNames are the names of a node's files, and some that only a server has.
func brinksNames() []string {
	out := []string{
		"server/db/state.db", "server/db/state.db-wal", "server/db/volatile.revision", "server/tls/serving-kubelet.key", "server/token",
		"agent/pki/x.pem", "agent/pki/kubelet-client-current.pem", "agent/node-password", "made", "lock", "brink.mark", ".overlay-probe-mine",
		"data/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "data/.unpack-1",
	}
	for name := range nodeFiles {
		out = append(out, strings.TrimSuffix(name, "/"))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// plantNamed puts the user's content under some of the names in a directory.
func (u *userTrees) plantNamed(root string, names []string, mayPreexist func(path string) bool) {
	u.Helper()
	for range u.random.IntN(4) {
		path := filepath.Join(root, u.pick(names))
		if _, err := os.Lstat(path); err == nil || mayPreexist(path) || os.MkdirAll(filepath.Dir(path), 0o755) != nil || u.isBelowPlanted(path) {
			continue
		}
		if err := u.make(path); err != nil {
			u.Fatal(err)
		}
		u.planted[path] = true
	}
}

func (u *userTrees) isBelowPlanted(path string) bool {
	for planted := range u.planted {
		if layout.IsBelow(path, planted) {
			return true
		}
	}
	return false
}

// directories are those below root in which somebody may put something; what
// brink's own trees contain is brink's.
func (u *userTrees) directories(root string, isBrinks func(string) bool) []string {
	out := []string{root}
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if path != root && (isBrinks(path) || u.planted[path]) {
			return fs.SkipDir
		}
		out = append(out, path)
		return nil
	})
	return out
}

func (u *userTrees) make(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	content := fmt.Appendf(nil, "precious %d", u.random.Uint64())
	switch u.random.IntN(8) {
	case 0, 1:
		return os.WriteFile(path, content, 0o640)
	case 2, 3:
		below := filepath.Join(path, u.pick(names), u.pick(names))
		return errors.Join(os.MkdirAll(filepath.Dir(below), 0o750), os.WriteFile(below, content, 0o400))
	case 4:
		return os.Symlink(u.pick([]string{u.outside, "..", "nowhere", "/", path, "/var/lib/kubelet"}), path)
	case 5:
		if os.Link(filepath.Join(u.outside, "hard"), path) == nil || os.Link("/var/lib/mine/hard", path) == nil {
			return nil
		}
		return os.WriteFile(path, content, 0o600) // on another file system
	case 6:
		return unix.Mkfifo(path, 0o600)
	}
	return u.mount(path)
}

// mount binds the user's directory, or mounts another file system.
func (u *userTrees) mount(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	u.mounts = append(u.mounts, path)
	if u.random.IntN(2) == 0 {
		return unix.Mount(u.outside, path, "", unix.MS_BIND, "")
	}
	err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=64k")
	return errors.Join(err, os.WriteFile(filepath.Join(path, "on-disk"), []byte("precious"), 0o600))
}

// snapshot is what lies at the planted paths and outside, byte by byte.
func (u *userTrees) snapshot() map[string]string {
	out := map[string]string{}
	for _, root := range append(u.sorted(), u.outside, "/var/lib/mine") {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				out[path] = err.Error()
				return nil
			}
			info, err := d.Info()
			if err != nil {
				out[path] = err.Error()
				return nil
			}
			text := ""
			switch {
			case info.Mode().IsRegular():
				content, _ := os.ReadFile(path)
				text = string(content)
			case info.Mode()&fs.ModeSymlink != 0:
				text, _ = os.Readlink(path)
			}
			out[path] = info.Mode().String() + " " + text
			return nil
		})
	}
	return out
}

func (u *userTrees) sorted() []string {
	var out []string
	for path := range u.planted {
		out = append(out, path)
	}
	slices.Sort(out)
	return out
}

// mustHold compares with an earlier snapshot.
func (u *userTrees) mustHold(before map[string]string) {
	u.Helper()
	now := u.snapshot()
	for path, was := range before {
		if now[path] != was {
			u.Errorf("%q was %q and is %q", path, was, now[path])
		}
	}
}

// mustBeNamed wants a line for each planted thing that was met.
func (u *userTrees) mustBeNamed(said []string) {
	u.Helper()
	text := strings.Join(said, "\n")
	if strings.Contains(text, "more beside these") {
		return
	}
	for path := range u.planted {
		if path != "/etc/brink/config.yaml" && !strings.Contains(text, "kept "+datadir.Show(path)+", ") { // of which the command tells
			u.Errorf("%q stays and is not named in\n%s", path, text)
		}
	}
}

// mustBeThere wants nothing to be named as kept that is gone.
func (u *userTrees) mustBeThere(said []string) {
	u.Helper()
	for _, line := range said {
		path, _, ok := strings.Cut(strings.TrimPrefix(line, "kept "), ", ")
		if !ok || !strings.HasPrefix(line, "kept /") {
			continue
		}
		if _, err := os.Lstat(path); err != nil {
			u.Errorf("%q, but %v", line, err)
		}
	}
}

// staleSocket is what a kubelet that is gone has left.
func staleSocket(path string) error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	listener.SetUnlinkOnClose(false)
	return listener.Close()
}

// brinksOf tells what of a node's files is brink's, by the tables.
func brinksOf(l layout.Layout, pods map[string]bool) func(path string) bool {
	return func(path string) bool {
		if pods[ledger.PodOfLogs(filepath.Base(path))] {
			return true
		}
		for root, kind := range map[string]func(string) layout.Kind{l.Data(): layout.DataName, l.Run(): layout.RunName, "/var/lib/kubelet": layout.KubeletName} {
			rel, err := filepath.Rel(root, path)
			if err != nil || !filepath.IsLocal(rel) {
				continue
			}
			k := kind(rel)
			return k == layout.File || k == layout.Tree
		}
		return false
	}
}

func cached(dir string) []byte {
	config := fmt.Appendf(nil, `{"name":"brink","plugins":[{"type":"bridge","ipam":{"type":"host-local","dataDir":%q}}]}`, dir)
	out, _ := json.Marshal(map[string]any{"kind": "cniCacheV1", "config": config})
	return out
}

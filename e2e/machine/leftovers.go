package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brink/internal/layout"
)

// snapshot is what a machine had before brink ran on it: mount points, the files
// of its own versions of system directories, as the tests find them, and the
// cgroups at the top of the host's hierarchies.
type snapshot struct{ mounts, files, cgroups map[string]bool }

func (m *Machine) takeSnapshot() (snapshot, error) {
	mounts, err := m.mountPoints()
	if err != nil {
		return snapshot{}, err
	}
	files, err := m.files()
	return snapshot{mounts: mounts, files: files, cgroups: nodeCgroups()}, err
}

// Leftovers is what brink made on the machine and is still there: after
// `brink uninstall` the list must be empty.
func (m *Machine) Leftovers() ([]string, error) {
	var found []string
	var errs []error
	for _, look := range []func() ([]string, error){
		m.leftProcesses, m.leftMounts, m.leftCgroups, m.leftLinks, m.leftRules, m.leftFiles,
	} {
		some, err := look()
		found, errs = append(found, some...), append(errs, err)
	}
	return found, errors.Join(errs...)
}

func (m *Machine) leftProcesses() ([]string, error) {
	var found []string
	for _, pid := range m.Processes() {
		if pid != m.Holder.PID() {
			found = append(found, fmt.Sprintf("process %d: %s", pid, CommandLine(pid)))
		}
	}
	return found, nil
}

func CommandLine(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")
}

func (m *Machine) leftMounts() ([]string, error) {
	points, err := m.mountPoints()
	return added("mount ", m.before.mounts, points), err
}

// added lists what is in now and was not before.
func added(kind string, before, now map[string]bool) []string {
	var found []string
	for name := range now {
		if !before[name] {
			found = append(found, kind+name)
		}
	}
	return found
}

// mountPoints are those of the machine's mount namespace.
func (m *Machine) mountPoints() (map[string]bool, error) {
	b, err := os.ReadFile(m.Holder.Proc("mountinfo"))
	points := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		points[strings.Fields(line)[4]] = true
	}
	return points, err
}

// leftCgroups also looks outside of the root that the machine's kubelet was
// given.
func (m *Machine) leftCgroups() ([]string, error) {
	found := added("cgroup ", m.before.cgroups, nodeCgroups())
	for _, dir := range m.trace().cgroups() {
		found = append(found, "cgroup "+dir)
	}
	return found, nil
}

// nodeCgroups are those at the top that a node could have made: what else comes
// there meanwhile is the host's.
func nodeCgroups() map[string]bool {
	found := map[string]bool{}
	for _, name := range []string{"kubepods", "kubepods.slice", "kubelet", "k8s.io", "default", "brink"} {
		for _, pattern := range []string{filepath.Join(CgroupFS, name), filepath.Join(CgroupFS, "*", name)} {
			dirs, _ := filepath.Glob(pattern)
			for _, dir := range dirs {
				found[dir] = true
			}
		}
	}
	return found
}

func (m *Machine) leftLinks() ([]string, error) {
	links, err := m.Netns().Links()
	var found []string
	for _, link := range links {
		if link != "lo" && link != "eth0" {
			found = append(found, "link "+link)
		}
	}
	return found, err
}

// leftRules asks for the whole rule set: it shows iptables-nft's tables too.
func (m *Machine) leftRules() ([]string, error) {
	r, err := m.Run("", "nft", "list", "tables")
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("nft list tables: %v", r)
	}
	var found []string
	for line := range strings.Lines(r.Stdout) {
		found = append(found, "nft "+strings.TrimSpace(line))
	}
	return found, err
}

// ours are the files that the tests themselves put on a machine, or that belong
// to its owner, as configuration does.
var ours = []string{"etc/brink", "etc/brink/config.yaml", "etc/brink/registries.yaml"}

func (m *Machine) leftFiles() ([]string, error) {
	found := m.LeftData()
	now, err := m.files()
	for path := range now {
		// Of a directory that is left, what is in it says nothing more.
		if parent := filepath.Dir(path); !m.before.files[path] && (m.before.files[parent] || !now[parent]) {
			found = append(found, "file "+path)
		}
	}
	return found, err
}

// LeftData lists what is left of the data directory, beside the archives and static
// pods that the tests lay into it: those are the user's.
func (m *Machine) LeftData() []string {
	var found []string
	data := m.Inside(m.Data)
	var users []string
	for _, pattern := range []string{m.Layout().Images() + "/*.tar", m.Layout().Manifests() + "/*.yaml"} {
		matches, _ := filepath.Glob(m.Inside(pattern))
		users = append(users, matches...)
	}
	isUsers := func(path string) bool {
		return slices.ContainsFunc(users, func(file string) bool { return layout.IsBelow(file, path) })
	}
	_ = filepath.WalkDir(data, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && !isUsers(path) {
			name, _ := filepath.Rel(data, path)
			found = append(found, "in the data directory "+name)
		}
		return nil
	})
	return found
}

// files are those in the machine's own versions of system directories, by where
// the tests find them. Directories of the host that overlayfs has made a copy of
// are none of them.
func (m *Machine) files() (map[string]bool, error) {
	found := map[string]bool{}
	for root, place := range map[string]string{
		filepath.Join(m.Dir, "upper"): "/", filepath.Join(m.Dir, "fresh"): "", filepath.Join(m.Dir, "log"): "", m.Inside("/run"): "",
	} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // no such root, or gone while we look
			}
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(root, path)
			if !slices.Contains(ours, name) && !isCopied(place, name, d) {
				found[path] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// AddDir makes a directory of the machine's owner below /var.
func (m *Machine) AddDir(path string) error {
	if err := os.MkdirAll(m.Inside(path), 0o755); err != nil {
		return err
	}
	own := filepath.Join(m.Dir, "upper")
	if m.IsDefault() {
		own = filepath.Join(m.Dir, "fresh")
	}
	for ; path != "/var"; path = filepath.Dir(path) {
		m.before.files[filepath.Join(own, path)] = true
	}
	return nil
}

// isCopied reports whether a directory in an upper layer is one of the host's, below
// lower, or whether a file there only marks what every kubelet replaces: a stale
// socket of the host's.
func isCopied(lower, name string, d fs.DirEntry) bool {
	if lower == "" {
		return false
	}
	if d.IsDir() {
		_, err := os.Lstat(filepath.Join(lower, name))
		return err == nil
	}
	return name == "var/lib/kubelet/device-plugins/kubelet.sock" && d.Type()&fs.ModeCharDevice != 0
}

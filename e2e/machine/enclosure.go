package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Enclosure is what keeps all its processes in cgroups of its own, such as a booted
// guest: nothing else is needed to find them.
type Enclosure struct {
	// ID is the name of the cgroups, at the top of every hierarchy.
	ID string
	// Dir is a directory that is removed with the enclosure.
	Dir string
}

func (e Enclosure) trace() trace { return trace{ID: e.ID, Dir: e.Dir} }

// Watch has the janitor erase the enclosure when this program does not.
func (j *Janitor) Watch(e Enclosure) error { return j.tell(e.trace()) }

// Forget tells the janitor that an enclosure is gone.
func (j *Janitor) Forget(e Enclosure) error { return j.tell(trace{ID: e.ID}) }

// Kill ends all processes of the enclosure, as a power cut does.
func (e Enclosure) Kill() error { return e.trace().endProcesses(time.Now().Add(time.Minute)) }

// Erase kills the enclosure and removes its cgroups and its directory.
func (e Enclosure) Erase() error { return e.trace().erase() }

// hierarchies are the cgroup trees that an enclosure has a cgroup in. Version 2 is one
// tree; version 1 is one for each controller, and two more that systemd works with.
func hierarchies() []string {
	if Cgroup2() {
		return []string{CgroupFS}
	}
	var trees []string
	for _, name := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified"} {
		tree := filepath.Join(CgroupFS, name)
		if _, err := os.Stat(filepath.Join(tree, "cgroup.procs")); err == nil {
			trees = append(trees, tree)
		}
	}
	return trees
}

// Cgroups makes the enclosure's cgroups where they are missing, removes what is below
// them, and returns their directories: a machine that boots has none from before.
func (e Enclosure) Cgroups() ([]string, error) {
	for _, dir := range e.trace().cgroups() {
		if filepath.Base(dir) == e.ID {
			continue
		}
		if err := removeCgroup(dir, time.Now().Add(time.Minute)); err != nil {
			return nil, err
		}
	}
	var dirs []string
	for _, tree := range hierarchies() {
		dir := filepath.Join(tree, e.ID)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := fillCpuset(tree, dir); err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// fillCpuset gives a new cgroup of version 1's cpuset what its tree has: it begins
// without a processor, and nothing can run in it.
func fillCpuset(tree, dir string) error {
	if filepath.Base(tree) != "cpuset" {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(tree, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, file), value, 0)
		}
		if err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0)
}

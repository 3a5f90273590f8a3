package guest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Snapshot is all that a program could leave behind in a guest: one entry for each file,
// link, rule, mount, kernel setting, unit and process, by a name such as
// "file /etc/passwd", with what can be said of it.
type Snapshot map[string]string

// volatile are files whose content the system itself writes; with a slash at the end, a
// directory in which it makes files, and with a star, whatever begins so. Whatever else changes is a program's doing.
var volatile = []string{
	"/etc/machine-id", "/etc/.updated", "/etc/resolv.conf", // systemd at the first boot
	"/var/lib/systemd/", "/var/log/journal/", "/var/log/wtmp", "/var/log/btmp", "/var/log/lastlog",
	"/var/log/rc.log", "/var/lib/urandom/", "/var/lib/seedrng/", // openrc
	"/etc/mtab", "/var/.updated", "/var/cache/ldconfig/",
	"/var/lib/dbus/machine-id", "/var/tmp/systemd-private-*",
}

// volatileRun is where the system itself works in /run.
var volatileRun = []string{
	"/run/systemd/", "/run/udev/", "/run/log/", "/run/dbus/", "/run/user/", "/run/host/", "/run/openrc/",
	"/run/credentials/", "/run/brink-guest/", "/run/motd.dynamic", "/run/utmp", "/run/mount/", "/run/lock/",
}

// Snapshot looks at everything. Ignore are more paths that are volatile.
func (g *Guest) Snapshot(ignore ...string) Snapshot {
	g.Helper()
	if g.recipe.virtual != nil {
		g.Fatal("a snapshot is of a container: the disk of a virtual machine is not seen")
	}
	s := Snapshot{}
	files := g.holder.Proc("root" + filepath.Join(g.dir, "root"))
	for _, look := range []func() error{
		func() error { return s.walk(files, "/", append(ignore, volatile...)) },
		func() error { return s.walk(g.outside("/run"), "/run", append(ignore, volatileRun...)) },
		func() error { return s.walk(g.outside("/tmp"), "/tmp", append(ignore, "/tmp/systemd-private-*")) },
		func() error {
			return s.walk(g.outside("/dev"), "/dev", append(ignore, "/dev/pts/", "/dev/char/", "/dev/disk/", "/dev/fd"))
		},
		func() error { return g.lookAtKernel(s) },
		func() error { return g.lookAtProcesses(s) },
	} {
		if err := look(); err != nil {
			g.Fatalf("taking a snapshot of guest %s: %v", g.id, err)
		}
	}
	return s
}

// walk adds the files below a directory, which is called name in the guest.
func (s Snapshot) walk(dir, name string, ignore []string) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // gone while we look
		}
		if err != nil {
			return err
		}
		inside := path.Join(name, strings.TrimPrefix(file, dir))
		if isSystems(inside, ignore) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		said, err := describe(file, d, slices.Contains(ignore, inside))
		if err == nil {
			s["file "+inside] = said
		}
		if os.IsNotExist(err) {
			return nil
		}
		return err
	})
}

// isSystems reports whether a directory with all in it is not looked at.
func isSystems(path string, ignore []string) bool {
	return slices.ContainsFunc(ignore, func(what string) bool {
		start, is := strings.CutSuffix(what, "*")
		return path+"/" == what || is && strings.HasPrefix(path, start)
	})
}

// describe says type, mode, owner, and what is in the file.
func describe(file string, d fs.DirEntry, volatile bool) (string, error) {
	info, err := d.Info()
	if err != nil {
		return "", err
	}
	stat := info.Sys().(*syscall.Stat_t)
	said := fmt.Sprintf("%s %d:%d", info.Mode(), stat.Uid, stat.Gid)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(file)
		return said + " -> " + target, err
	case !info.Mode().IsRegular() || volatile:
		return said, nil
	}
	sum, err := contentSum(file)
	return said + " " + sum, err
}

func contentSum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	return fmt.Sprintf("%d bytes %x", size, hash.Sum(nil)[:6]), err
}

// Diff says what differs in a later snapshot, a line each; Ignore are entries that may
// differ, by their names or, with a slash or a space at the end, by how these begin.
func (s Snapshot) Diff(later Snapshot, ignore ...string) []string {
	names := maps.Clone(s)
	maps.Copy(names, later)
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		before, was := s[name]
		after, is := later[name]
		switch {
		case before == after && was == is || isIgnored(name, ignore):
		case !was:
			lines = append(lines, "new      "+name+": "+after)
		case !is:
			lines = append(lines, "gone     "+name+": "+before)
		default:
			lines = append(lines, "changed  "+name+": "+before+" => "+after)
		}
	}
	return lines
}

func isIgnored(name string, ignore []string) bool {
	return slices.ContainsFunc(ignore, func(what string) bool {
		return name == what || strings.HasSuffix(what, "/") && strings.HasPrefix(name, what) ||
			strings.HasSuffix(what, " ") && strings.HasPrefix(name, what)
	})
}

package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"

	"brink/internal/atomicfile"
	"brink/internal/datadir"
	"brink/internal/layout"
)

// SelfBinds counts how often dir is mounted on itself, which the kubelet does where its
// directory does not lie on a shared mount. A mount counts if the one below it shows the
// same directory of the same file system at this place. What the one below is does not
// matter: a disk, a directory bound there, a subvolume.
func SelfBinds(table []*mountinfo.Info, dir string) int {
	byID := map[int]*mountinfo.Info{}
	for _, m := range table {
		byID[m.ID] = m
	}
	count := 0
	for _, m := range table {
		below := byID[m.Parent]
		if below == nil || m.Mountpoint != dir || m.Major != below.Major || m.Minor != below.Minor {
			continue
		}
		rel, err := filepath.Rel(below.Mountpoint, dir)
		if err == nil && filepath.Join(below.Root, rel) == m.Root {
			count++
		}
	}
	return count
}

// RecordSelfBinds writes down how often the kubelet's directory is mounted on itself
// before the first kubelet of this boot: that many are its user's. The record lies
// in the run directory, which a reboot empties as it takes the mounts away. Where an
// older brink has run in this boot and recorded nothing, the mounts are taken for its own.
// It comes before containerd, whose state shows that.
func RecordSelfBinds(l layout.Layout) error {
	_, err := os.Lstat(l.SelfBinds())
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	table, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("reading the table of mounts: %w", err)
	}
	count := SelfBinds(table, datadir.Resolve(l.Kubelet()))
	if _, err := os.Lstat(l.ContainerdState()); err == nil {
		count = 0
	}
	return atomicfile.Keep(l.SelfBinds(), []byte(strconv.Itoa(count)+"\n"), 0o600)
}

// UsersSelfBinds returns what RecordSelfBinds has written, 0 where there is nothing.
func UsersSelfBinds(l layout.Layout) int {
	text, _ := os.ReadFile(l.SelfBinds())
	count, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return count
}

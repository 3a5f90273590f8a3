package snapshot

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hasRoom returns an error if the disk of dir cannot take these files beside what is there. It
// is asked before anything is written: a disk that a restore fills up stops what runs on it.
func hasRoom(dir string, files []File) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return fmt.Errorf("cannot be restored: asking for the free space of %s: %w", dir, err)
	}
	block := int64(s.Bsize)
	left := int64(s.Bavail)
	for _, f := range files {
		blocks := f.Size / block // what is below 0 is refused when it is read
		if f.Size%block > 0 {
			blocks++
		}
		if blocks > left {
			return fmt.Errorf("needs more than the %d MiB that are free in %s: free some space", int64(s.Bavail)*block>>20, dir)
		}
		left -= max(blocks, 0)
	}
	return nil
}

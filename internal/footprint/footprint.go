// Package footprint gives memory back to the kernel that this process needed for
// a while only: for its start, for a big answer.
package footprint

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim gives back what the heap does not use, and the pages of the program's own
// file. A start runs through most of 140 MB of code and tables; an idle node uses
// a part of them. The kernel would keep all of them
// mapped and, being executable, spare them longer than other files' pages. Here
// they are only unmapped: they stay in the page cache while there is room, and
// one that is used again costs a minor fault.
func Trim() {
	debug.FreeOSMemory()
	if err := unmapProgram(); err != nil {
		slog.Debug("pages of the program stay mapped", "component", "footprint", "error", err)
	}
}

// unmapProgram lets go of the pages of the program's own file.
func unmapProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	regions, err := cleanRegions(f, exe)
	if err != nil {
		return err
	}
	for _, r := range regions {
		if err := r.unmap(); err != nil {
			return fmt.Errorf("unmapping %x-%x: %w", r.start, r.end, err)
		}
	}
	return nil
}

// region is a range of addresses.
type region struct{ start, end uintptr }

// unmap is by number: golang.org/x/sys wants a slice, and no Go slice may
// rightly hold the program's text.
func (r region) unmap() error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTNEED)
	if errno != 0 {
		return errno
	}
	return nil
}

// cleanRegions picks from smaps, in the format of proc(5), the mappings of path
// that cannot be written and have no page of their own: such a page, for one
// relocated at start or patched by a debugger, exists nowhere else.
func cleanRegions(smaps io.Reader, path string) ([]region, error) {
	var out []region
	var current *region
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		if r, isHeader := parseHeader(line, path); isHeader {
			current = r
			continue
		}
		// The line comes once in each mapping.
		size, isAnonymous := strings.CutPrefix(line, "Anonymous:")
		if isAnonymous && current != nil && strings.TrimSpace(size) == "0 kB" {
			out = append(out, *current)
		}
	}
	return out, lines.Err()
}

// parseHeader reads "start-end perms offset dev inode   path". The region is nil
// unless it is a read-only mapping of path.
func parseHeader(line, path string) (r *region, isHeader bool) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 6 || strings.HasSuffix(fields[0], ":") {
		return nil, false
	}
	first, last, ok := strings.Cut(fields[0], "-")
	start, startErr := strconv.ParseUint(first, 16, 64)
	end, endErr := strconv.ParseUint(last, 16, 64)
	if !ok || startErr != nil || endErr != nil {
		return nil, false
	}
	if strings.Contains(fields[1], "w") || strings.TrimSpace(fields[5]) != path {
		return nil, true
	}
	return &region{uintptr(start), uintptr(end)}, true
}

// Package footprint returns memory to the kernel that this process needed only for a
// while: for its start, or for a large answer.
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

// Trim returns what the heap does not use, and the pages of the program's own file. A
// start runs through most of 140 MB of code and tables, of which an idle node uses a part.
// The kernel would keep all of them mapped, and longer than other files' pages, because
// they are executable. Trim only unmaps them: they stay in the page cache while there is
// room, and a page that is used again costs a minor fault.
func Trim() {
	debug.FreeOSMemory()
	if err := unmapProgram(); err != nil {
		slog.Debug("pages of the program stay mapped", "component", "footprint", "error", err)
	}
}

// unmapProgram unmaps the pages of the program's own file.
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

// unmap calls the kernel by number: golang.org/x/sys takes a slice, and a Go slice must
// not refer to the program's text.
func (r region) unmap() error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, unix.MADV_DONTNEED)
	if errno != 0 {
		return errno
	}
	return nil
}

// cleanRegions returns from smaps, in the format of proc(5), the mappings of path that
// cannot be written and have no pages of their own. Such a page, relocated at start or
// patched by a debugger, exists nowhere else.
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
		// Each mapping has this line once.
		size, isAnonymous := strings.CutPrefix(line, "Anonymous:")
		if isAnonymous && current != nil && strings.TrimSpace(size) == "0 kB" {
			out = append(out, *current)
		}
	}
	return out, lines.Err()
}

// parseHeader parses "start-end perms offset dev inode   path". The region is nil unless
// it is a read-only mapping of path.
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

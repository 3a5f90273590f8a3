package host

import (
	"strconv"
	"strings"
)

// FilesCheck is the name of the check of how many files a node may open.
const FilesCheck = "open files"

// minFiles is how many files a node may have to open. One with a control plane has some
// 250 open when idle, and a dozen more for each pod while it starts; a kubelet runs up to
// 110 pods.
const minFiles = 4096

// checkFiles checks the limit of a running brink, or else of this process, which a start
// raises where it may.
func (m machine) checkFiles(f Facts, pid int) Check {
	process := "self"
	if pid != 0 {
		process = strconv.Itoa(pid)
	}
	limit, known := hardLimit(m.read("proc/" + process + "/limits"))
	if !known || limit >= minFiles || pid == 0 && f.Capabilities.Has(CapSysResource) {
		return ok(FilesCheck, "brink may have enough files open")
	}
	return warn(FilesCheck, "give more by LimitNOFILE=1048576 in its unit, ulimit -n or limits.conf",
		"brink may have %d files open, a node with many pods needs %d", limit, minFiles)
}

// hardLimit returns the second number of a line like "Max open files 1024 524288 files".
func hardLimit(limits string) (uint64, bool) {
	for line := range strings.Lines(limits) {
		if rest, found := strings.CutPrefix(line, "Max open files"); found {
			if numbers := strings.Fields(rest); len(numbers) > 1 {
				n, err := strconv.ParseUint(numbers[1], 10, 64)
				return n, err == nil // not "unlimited"
			}
		}
	}
	return 0, false
}

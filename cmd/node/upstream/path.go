package upstream

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brink/internal/host"
)

// CompletePath appends to PATH the directories that a root shell may lack: Debian's su
// keeps the user's, without sbin. The embedded components run programs by name.
func CompletePath() {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range host.ProgramDirs {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	os.Setenv("PATH", strings.Join(dirs, string(filepath.ListSeparator)))
}

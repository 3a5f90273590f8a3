package upstream

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// systemDirs are where distributions put modprobe, nft and mount.
var systemDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// CompletePath appends to PATH the directories that a root shell may lack: Debian's su
// keeps the user's, without sbin. The embedded components run programs by name.
func CompletePath() {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range systemDirs {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	os.Setenv("PATH", strings.Join(dirs, string(filepath.ListSeparator)))
}

package host

import (
	"os"
	"path/filepath"
	"strings"
)

// Running returns the process ids of a program that runs in this network namespace, as
// whoever manages its links does. name is at most 15 bytes of the file's name, to which the
// kernel cuts it.
func Running(name string) []string { return thisMachine().running(name) }

func (m machine) running(name string) []string {
	own, _ := os.Readlink(m.path("proc/self/ns/net"))
	files, _ := filepath.Glob(m.path("proc/[0-9]*/comm"))
	var pids []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(text)) != name {
			continue
		}
		dir := filepath.Dir(file)
		if ns, err := os.Readlink(filepath.Join(dir, "ns", "net")); err == nil && ns != own {
			continue
		}
		pids = append(pids, filepath.Base(dir))
	}
	return pids
}

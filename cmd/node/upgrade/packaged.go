package upgrade

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// owners are package managers, with how each tells the package that a file is of.
var owners = []struct {
	ask     []string // the file follows
	parse   func(said string) string
	upgrade string // the package's name follows
}{
	{[]string{"dpkg-query", "-S"}, func(said string) string { name, _, _ := strings.Cut(said, ":"); return name }, "apt-get install --only-upgrade"},
	{[]string{"rpm", "-q", "--qf", "%{NAME}", "-f"}, func(said string) string { return said }, "dnf upgrade"},
	{[]string{"apk", "info", "-q", "--who-owns"}, func(said string) string { return said }, "apk upgrade"},
}

// packageOf returns an error if a file belongs to a package: then the package manager replaces
// it, and would be surprised by another hand's.
func packageOf(ctx context.Context, file string) error {
	for _, o := range owners {
		program, err := exec.LookPath(o.ask[0])
		if err != nil {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, time.Minute)
		said, err := exec.CommandContext(asking, program, append(o.ask[1:], file)...).Output()
		cancel()
		name := o.parse(strings.TrimSpace(string(said)))
		if err == nil && name != "" {
			return fmt.Errorf("%s is of the package %s: upgrade it with: %s %s", file, name, o.upgrade, name)
		}
	}
	return nil
}

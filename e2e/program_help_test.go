package e2e

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestHelpTexts prints the help of every command that the binary has, kubectl's and ctr's
// too. They are made by templates, which call methods by their names: those have to be
// linked (scripts/linker).
func TestHelpTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		program []string
		listed  *regexp.Regexp // a command in the program's own help
		least   int
	}{
		{nil, regexp.MustCompile(`(?m)^ {5}([a-z-]+)(?:, \S+)* {2,}\S`), 8},
		{[]string{"kubectl"}, regexp.MustCompile(`(?m)^ {2}([a-z-]+) {2,}\S`), 35},
		{[]string{"ctr"}, regexp.MustCompile(`(?m)^ {3}([a-z-]+)(?:, \S+)* {2,}\S`), 10},
	} {
		top := helpText(t, c.program...)
		commands := c.listed.FindAllStringSubmatch(top, -1)
		if len(commands) < c.least {
			t.Errorf("brink %v lists %d commands:\n%s", c.program, len(commands), top)
		}
		for _, m := range commands {
			if m[1] != "help" && m[1] != "h" {
				helpText(t, append(c.program, m[1])...)
			}
		}
	}
}

// helpText returns the help of a command, which must be one: with a line on how to use it.
func helpText(t *testing.T, command ...string) string {
	t.Helper()
	out, err := exec.Command(brinkBinary, append(command, "--help")...).CombinedOutput()
	text := string(out)
	if err != nil || !regexp.MustCompile(`(?i)usage:?`).MatchString(text) || strings.Contains(text, "panic:") {
		t.Errorf("brink %v --help: %v\n%.2000s", command, err, text)
	}
	return text
}

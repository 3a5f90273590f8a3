// Package testprocess runs a test once more in a process of its own: for what
// ends the process, or sets its globals for good. Only tests import it.
package testprocess

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// variable tells the test binary what to do.
const variable = "BRINK_TEST_PROCESS"

// Argument is what Again has started this process with, and empty in the process
// that `go test` has started.
func Argument() string { return os.Getenv(variable) }

// Again is the test binary with nothing but the calling test, or the test of
// which it is a part, to run. There Argument is what is given here. The process
// ends with t at the latest.
func Again(t *testing.T, argument string) *exec.Cmd {
	name, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+name+"$")
	cmd.Env = append(os.Environ(), variable+"="+argument)
	return cmd
}

// MustPass runs the test again and fails t unless it passes there.
func MustPass(t *testing.T, argument string) {
	t.Helper()
	if out, err := Again(t, argument).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

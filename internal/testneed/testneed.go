// Package testneed says what a test needs of the machine that it runs on. Only tests
// import it, and no test calls t.Skip itself: a test that did not run must not look
// like one that passed. Where everything is installed, BRINK_NO_SKIP says so, as
// scripts/unit and scripts/e2e do, and a need that is not met is a failure.
package testneed

import (
	"os"
	"os/exec"
	"testing"
)

// Variable makes a missing need a failure when it is not empty.
const Variable = "BRINK_NO_SKIP"

// Root is for a test that mounts, makes namespaces or runs containers.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Program returns the path of a program that scripts/deps installs.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name)
	}
	return path
}

// Missing ends a test that needs what this machine does not have: it fails the test
// where Variable is set, and skips it elsewhere.
func Missing(t testing.TB, what any) {
	t.Helper()
	if os.Getenv(Variable) != "" {
		t.Fatalf("this test needs %v, and %s says that nothing is missing: run scripts/deps test", what, Variable)
	}
	t.Skipf("this test needs %v", what)
}

// OtherKernel skips a test of what only kernels set up in another way have, such as
// the other version of cgroups. Nothing that could be installed would let it run, so
// it skips everywhere. The test of this package lists who may call it.
func OtherKernel(t testing.TB, what string) {
	t.Helper()
	t.Skipf("this kernel is set up without %s", what)
}

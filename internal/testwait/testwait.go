// Package testwait waits in a test for what another goroutine, process or kernel does.
// Only tests import it. What has no part outside of the test's process is better
// tested in a synctest bubble, where waiting takes no time; there it works as well.
package testwait

import (
	"testing"
	"time"
)

const (
	// Patience is how long to wait for what normally happens within milliseconds: the
	// machine may be busy with a big compile.
	Patience = time.Minute
	pause    = 5 * time.Millisecond
)

// Until returns once condition holds, and fails t if it does not in time. what names
// the condition: "the rule is back".
func Until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !condition(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, Patience)
		}
	}
}

// UntilNil returns once try returns nil, and fails t with its last error if it does
// not in time.
func UntilNil(t testing.TB, what string, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(pause) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, Patience, err)
		}
	}
}

// Closed returns once channel is closed or has a value, and fails t if that does not
// happen in time.
func Closed[T any](t testing.TB, what string, channel <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-channel:
	case <-time.After(Patience):
		t.Fatalf("%s: not within %v", what, Patience)
	}
	return value
}

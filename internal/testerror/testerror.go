// Package testerror checks errors that a user reads. Only tests import it.
package testerror

import (
	"strings"
	"testing"
)

// OneLine fails t unless err is one line that has all of parts in it.
func OneLine(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("got no error, want one about %q", parts)
		return
	}
	text := err.Error()
	if strings.Contains(text, "\n") {
		t.Errorf("the error has more than one line: %s", text)
	}
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in the error: %s", part, text)
		}
	}
}

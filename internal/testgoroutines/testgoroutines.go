// Package testgoroutines finds goroutines that outlive what started them. Only tests
// import it. In a synctest bubble it is not needed: a bubble waits for all of its
// goroutines.
package testgoroutines

import (
	"bytes"
	"context"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"
)

// label is that of the goroutines of one test. A goroutine inherits its maker's labels, so
// that tests may run at the same time.
const label = "started-by-test"

// patience is how long goroutines have to end that were told to.
const patience = 10 * time.Second

// WantNone runs f and fails the test if goroutines are left that f has started, itself or
// through others.
func WantNone(t *testing.T, f func()) {
	t.Helper()
	pprof.Do(context.Background(), pprof.Labels(label, t.Name()), func(context.Context) { f() })
	var left []string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if left = startedBy(t.Name()); len(left) == 0 {
			return
		}
	}
	t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
}

// startedBy returns the stacks of a test's goroutines, one for each stack that differs.
func startedBy(test string) []string {
	var text bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
		return []string{err.Error()}
	}
	var out []string
	for stack := range strings.SplitSeq(text.String(), "\n\n") {
		if strings.Contains(stack, strconv.Quote(label)+":"+strconv.Quote(test)) {
			out = append(out, stack)
		}
	}
	return out
}

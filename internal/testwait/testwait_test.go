package testwait

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a test that notes how it failed. Fatalf ends its goroutine, as the real
// one does.
type failing struct {
	testing.TB
	text string
}

func (f *failing) Helper() {}

func (f *failing) Fatalf(format string, args ...any) {
	f.text = fmt.Sprintf(format, args...)
	panic(f)
}

func run(test func(t testing.TB)) (text string) {
	f := &failing{}
	defer func() {
		if recover() != nil {
			text = f.text
		}
	}()
	test(f)
	return ""
}

func TestUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		late := func() bool { return time.Since(begun) > Patience/2 }
		if text := run(func(t testing.TB) { Until(t, "half of it is over", late) }); text != "" {
			t.Error(text)
		}
		text := run(func(t testing.TB) { Until(t, "pigs fly", func() bool { return false }) })
		if !strings.Contains(text, "pigs fly") {
			t.Errorf("got %q", text)
		}
		text = run(func(t testing.TB) { UntilNil(t, "pigs fly", func() error { return errors.New("no wings") }) })
		if !strings.Contains(text, "pigs fly: not within 1m0s: no wings") {
			t.Errorf("got %q", text)
		}
	})
}

func TestClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		channel := make(chan int)
		go func() {
			time.Sleep(Patience / 2)
			channel <- 7
			close(channel)
		}()
		if text := run(func(tb testing.TB) {
			if got := Closed(tb, "it is there", channel); got != 7 {
				t.Errorf("got %d", got)
			}
		}); text != "" {
			t.Error(text)
		}
		text := run(func(t testing.TB) { Closed(t, "pigs fly", make(chan int)) })
		if !strings.Contains(text, "pigs fly") {
			t.Errorf("got %q", text)
		}
	})
}

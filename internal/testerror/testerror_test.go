package testerror

import (
	"errors"
	"testing"
)

// counting is a test that counts its errors.
type counting struct {
	testing.TB
	errors int
}

func (c *counting) Helper()               {}
func (c *counting) Errorf(string, ...any) { c.errors++ }

func TestOneLine(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want int
	}{
		{errors.New("reading a: no such file"), 0},
		{nil, 1},
		{errors.New("reading a:\nno such file"), 1},
		{errors.New("reading a"), 1},
		{errors.New("something\nelse"), 3},
	} {
		c := &counting{}
		OneLine(c, tc.err, "reading a", "file")
		if c.errors != tc.want {
			t.Errorf("%v: %d errors, want %d", tc.err, c.errors, tc.want)
		}
	}
}

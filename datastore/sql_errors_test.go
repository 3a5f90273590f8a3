package datastore

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
)

func TestUnanswered(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("sql: Scan error on column index 0"), false},
		{context.DeadlineExceeded, true},
		{fmt.Errorf("dial: %w", syscall.ECONNREFUSED), true},
	} {
		if got := c.err != nil && unanswered(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

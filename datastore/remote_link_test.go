package datastore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A line at the loss, one a minute, one at the return.
func TestLinkSaysLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := new(logBuffer)
		l := newLink(log.logger(), "postgres://host/db")
		l.found()
		for range 150 { // seconds
			l.lost(errors.New("tried this way: no\ntried that way:\n\tconnection refused"))
			time.Sleep(time.Second)
		}
		if err := l.health(); err == nil || !strings.Contains(err.Error(), "since 2000-01-01T00:00:00Z): connection refused") {
			t.Errorf("health: %v", err)
		}
		l.found()
		l.found()
		for line, want := range map[string]int{"refused until it is back": 1, "still away": 2, "is back": 2 /* the first names it too */, "after=2m30s": 1} {
			if got := log.count(line); got != want {
				t.Errorf("%q is said %d times, want %d", line, got, want)
			}
		}
		if err := l.health(); err != nil {
			t.Error(err)
		}
	})
}

// Statements under way end when the database is known to be away, also those that
// a request waits for; and those of before do not touch those of after.
func TestLinkEndsStatements(t *testing.T) {
	t.Parallel()
	l := newLink(new(logBuffer).logger(), "postgres://host/db")
	type key struct{}
	parent := context.WithValue(t.Context(), key{}, "kept")
	ctx, cancel := l.statement(parent)
	defer cancel()
	if ctx.Value(key{}) != "kept" || ctx.Err() != nil {
		t.Error("a statement has another context")
	}
	l.lost(errors.New("gone"))
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		t.Error("a statement goes on without a database")
	}
	if err := l.explain(ctx.Err()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), AwayText+"is away since ") {
		t.Errorf("a request gets %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- l.wait(t.Context()) }()
	l.found()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	after, cancelAfter := l.statement(parent)
	defer cancelAfter()
	if after.Err() != nil {
		t.Error("a statement after the return ends at once")
	}
	stopped, stop := context.WithCancel(parent)
	of, cancelOf := l.statement(stopped)
	defer cancelOf()
	stop()
	<-of.Done()
}

// Answers of a database are not taken for its absence.
func TestLinkTellsAnswersFromSilence(t *testing.T) {
	t.Parallel()
	l := newLink(new(logBuffer).logger(), "postgres://host/db")
	for _, err := range []error{nil, errors.New("sql: no rows in result set"), status.Error(codes.Internal, "x")} {
		if got := l.explain(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
	if len(l.suspected) != 0 {
		t.Error("an answer raised a suspicion")
	}
	if err := l.explain(context.DeadlineExceeded); status.Code(err) != codes.Unavailable || len(l.suspected) != 1 {
		t.Errorf("a statement that took too long: %v", err)
	}
}

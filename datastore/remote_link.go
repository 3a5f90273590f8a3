package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"brink/internal/sleep"
)

const (
	// renewEvery is how often a database is written to by a server that holds it.
	renewEvery = 10 * time.Second
	// retryEvery is how often one that is away is tried.
	retryEvery = time.Second
	// answerTime is how long a database may take for a statement of ours that
	// touches one row. One that takes longer is away: it hangs, or packets to it
	// are dropped.
	answerTime = 5 * time.Second
	// statementTime bounds all other statements: a list of everything in a big
	// cluster over a slow link takes seconds.
	statementTime = 30 * time.Second
	// remindEvery is how often the log says that the database is still away.
	remindEvery = time.Minute
	// suspectPause is the least time between two questions that errors cause.
	suspectPause = 200 * time.Millisecond
)

// link knows whether a database elsewhere answers. It asks with one statement of its own, again
// and again, which alone decides. A request that fails only makes it ask sooner, so that one
// lost connection is no alarm. The log has a line when the database goes away, one a minute
// while it is away, and one when it is back.
//
// While it is away, requests are refused at once, also those that wait for an answer,
// and background work waits: kine would log a line for each try, ten a second.
type link struct {
	log   *slog.Logger
	place string        // names the database without its password
	every time.Duration // renewEvery but in tests

	suspected chan struct{}

	mu     sync.Mutex
	met    bool      // it has answered once
	since  time.Time // when it went away; zero while it answers
	cause  error
	logged time.Time       // when the log last had a line about it
	back   chan struct{}   // closed while it answers
	epoch  context.Context // done when it goes away
	depart context.CancelFunc
}

func newLink(log *slog.Logger, place string) *link {
	l := &link{log: log, place: place, every: renewEvery, suspected: make(chan struct{}, 1), back: make(chan struct{})}
	close(l.back)
	l.epoch, l.depart = context.WithCancel(context.Background())
	return l
}

// lost notes that the database does not answer.
func (l *link) lost(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.cause = oneLine(cause)
	switch {
	case l.since.IsZero():
		l.since, l.logged, l.back = now, now, make(chan struct{})
		l.depart()
		if l.met {
			l.log.Error("the database is away: requests are refused until it is back", "database", l.place, "error", l.cause)
		} else {
			l.log.Warn("the database is not there yet: waiting for it", "database", l.place, "error", l.cause)
		}
	case now.Sub(l.logged) >= remindEvery:
		l.logged = now
		l.log.Warn("the database is still away", "database", l.place, "for", now.Sub(l.since).Round(time.Second), "error", l.cause)
	}
}

// found notes that the database answers.
func (l *link) found() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.met = true
	if l.since.IsZero() {
		return
	}
	l.log.Info("the database is back", "database", l.place, "after", time.Since(l.since).Round(time.Second))
	l.since, l.cause = time.Time{}, nil
	l.epoch, l.depart = context.WithCancel(context.Background())
	close(l.back)
}

// suspect makes keep ask the database soon.
func (l *link) suspect() {
	select {
	case l.suspected <- struct{}{}:
	default:
	}
}

// health is nil while the database answers.
func (l *link) health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return nil
	}
	return fmt.Errorf("the database at %s is away (since %s): %w", l.place, l.since.UTC().Format(time.RFC3339), l.cause)
}

// gate returns the error for a request while the database is away, nil while it is there.
// The error reaches every client of the API, so it does not say where the database is.
func (l *link) gate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() {
		return nil
	}
	return awayError{"is away since " + l.since.UTC().Format(time.RFC3339)}
}

// wait returns when the database answers or ctx is done.
func (l *link) wait(ctx context.Context) error {
	l.mu.Lock()
	back := l.back
	l.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-back:
		return nil
	}
}

// explain returns the error for a request whose statement found no database, and has the link
// ask soon. It returns all other errors unchanged.
func (l *link) explain(err error) error {
	if err == nil || errors.As(err, new(awayError)) || !unanswered(err) {
		return err
	}
	l.suspect()
	if away := l.gate(); away != nil {
		return away
	}
	return awayError{"did not answer"}
}

// statement is the context for one statement. It ends with ctx, when the
// database is known to be away, and after statementTime.
func (l *link) statement(ctx context.Context) (context.Context, context.CancelFunc) {
	l.mu.Lock()
	epoch := l.epoch
	l.mu.Unlock()
	joined, cancel := context.WithTimeout(valuesOf{epoch, ctx}, statementTime)
	stop := context.AfterFunc(ctx, cancel)
	return joined, func() {
		stop()
		cancel()
	}
}

// valuesOf is a context that also has the values of another one.
type valuesOf struct {
	context.Context
	values context.Context
}

func (c valuesOf) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.values.Value(key)
}

// keep renews the hold on the database until ctx is done, and so finds out whether it
// answers. It returns errTaken when another server has taken the hold.
func (l *link) keep(ctx context.Context, renew func(context.Context) error) error {
	for ctx.Err() == nil {
		l.pause(ctx)
		err := l.ask(ctx, renew)
		if errors.Is(err, errTaken) {
			return err
		}
	}
	return nil
}

// ask runs one question and records whether the database answered it.
func (l *link) ask(ctx context.Context, question func(context.Context) error) error {
	asking, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	err := question(asking)
	switch {
	case err == nil:
		l.found()
	case ctx.Err() == nil && !errors.Is(err, errTaken):
		l.lost(err)
	}
	return err
}

// pause waits until the next question is due.
func (l *link) pause(ctx context.Context) {
	if l.health() != nil {
		sleep.For(ctx, retryEvery)
		return
	}
	timer := time.NewTimer(l.every)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-l.suspected:
		sleep.For(ctx, suspectPause)
	}
}

// awayError is what a request gets while there is no database. As quietError it
// passes through kine without being logged for each request.
type awayError struct{ text string }

// AwayText begins the errors of requests that found no database. A log of the API's
// errors leaves them out by it: the datastore logs the outage itself.
const AwayText = "datastore: the database "

func (e awayError) Error() string              { return AwayText + e.text }
func (e awayError) GRPCStatus() *status.Status { return status.New(codes.Unavailable, e.Error()) }
func (e awayError) Is(target error) bool       { return target == context.Canceled }

package upgrade

import (
	"fmt"
	"time"
)

const (
	// interval is how often the watcher looks.
	interval = time.Second
	// settled is how long a node must have been Ready without a break.
	settled = 10 * time.Second
	// mostEnds is how often the new version may end: service managers start it again after
	// five seconds each.
	mostEnds = 5
	// longestStep is the most that one look counts for, so that a machine which slept, or
	// hung, is not held against the new version.
	longestStep = 5 * time.Second
)

// sight is what the watcher sees at one moment.
type sight struct {
	ends    int    // how often the process has ended since the start
	answers bool   // a process answers on the status socket
	ready   bool   // and says that the node is
	isNew   bool   // and that it is the new version
	why     string // else why the node is not
	outside string // what the node waits for and cannot help, empty for nothing
}

// verdict is what comes of it.
type verdict int

const (
	undecided verdict = iota
	good
	bad
)

// judge decides about a new version by what is seen of it.
type judge struct {
	limit    time.Duration
	wasReady bool

	spent, well   time.Duration
	seen, counted int // ends
}

// look takes into account what is seen after a time.
func (j *judge) look(after time.Duration, s sight) (verdict, string) {
	after = min(after, longestStep)
	if s.ends > j.seen && s.outside == "" {
		j.counted += s.ends - j.seen
	}
	j.seen = max(j.seen, s.ends)
	if s.outside == "" && !(s.ready && s.isNew) {
		j.spent += after
	}
	switch {
	case s.answers && s.isNew && (s.ready || !j.wasReady && s.outside == ""):
		j.well += after
	case s.outside == "" || j.wasReady:
		j.well = 0
	}
	needed := settled
	if !j.wasReady && !s.ready {
		needed = j.limit
	}
	switch {
	case j.well >= needed:
		return good, ""
	case j.counted >= mostEnds:
		return bad, fmt.Sprintf("the new version has ended %d times", j.counted)
	case j.spent < j.limit:
		return undecided, ""
	case s.answers && !s.isNew:
		return bad, "what runs is not the new version"
	case s.answers:
		return bad, fmt.Sprintf("the new version did not become Ready within %s: %s", j.limit, s.why)
	}
	return bad, fmt.Sprintf("the new version did not answer within %s", j.limit)
}

package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/initsystem"
	"brink/internal/layout"
)

// Phase is how far an upgrade is.
type Phase string

const (
	// Replacing: the new binary waits beside the old one, for the watcher to stop brink, keep
	// its state and rename. Nothing is lost up to here.
	Replacing Phase = "replacing"
	// Watching: the new binary is in its place and is judged.
	Watching Phase = "watching"
	// Returning: the old binary gets its place back.
	Returning Phase = "returning"
	// Done: the new binary is good.
	Done Phase = "done"
	// Refused: nothing was replaced.
	Refused Phase = "refused"
	// Returned: the old binary runs again.
	Returned Phase = "returned"
	// Failed: the new binary is bad, and stays: the old one could not use the state, and there
	// is none to put back.
	Failed Phase = "failed"
)

// Record is what an upgrade must know after a power cut, and what is told of it afterwards.
type Record struct {
	Phase   Phase              `json:"phase"`
	From    string             `json:"from"`
	To      string             `json:"to"`
	Binary  string             `json:"binary"`
	DataDir string             `json:"dataDir"`
	Service initsystem.Service `json:"service"`
	Agent   bool               `json:"agent,omitempty"`
	// Elsewhere says that the server's database is not the one in the data directory.
	Elsewhere bool `json:"databaseElsewhere,omitempty"`
	// NoSnapshot is the user's word.
	NoSnapshot bool `json:"noSnapshot,omitempty"`
	// WasReady says that the old version was. Else the new one has only to stay alive.
	WasReady bool          `json:"wasReady"`
	Limit    time.Duration `json:"limit"`
	// ByHand says that somebody asked to go back.
	ByHand   bool      `json:"byHand,omitempty"`
	Begun    time.Time `json:"begun"`
	Ended    time.Time `json:"ended,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	Snapshot string    `json:"snapshot,omitempty"`
	Lost     *Lost     `json:"lost,omitempty"`
}

// Lost are the writes that are not in the snapshot that was put back.
type Lost struct {
	After   int64     `json:"afterRevision"`
	UpTo    int64     `json:"upToRevision"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
	KeptIn  string    `json:"keptIn,omitempty"` // the state that has them
	Problem string    `json:"problem,omitempty"`
}

// IsUnderWay reports whether the watcher has something to do.
func (r Record) IsUnderWay() bool {
	return r.Phase == Replacing || r.Phase == Watching || r.Phase == Returning
}

// ErrNone is returned where there was no upgrade.
var ErrNone = errors.New("there was no upgrade")

// Read returns the last upgrade of a data directory's brink.
func Read(l layout.Layout) (r Record, err error) {
	text, err := atomicfile.Read(l.UpgradeState())
	if errors.Is(err, fs.ErrNotExist) {
		return r, ErrNone
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return Record{}, fmt.Errorf("reading the last upgrade: %s: %w", l.UpgradeState(), err)
	}
	if r.DataDir != l.Data() {
		return Record{}, ErrNone // this is a copy: the upgrade is that of the original
	}
	return r, nil
}

// write makes the record durable before the next step.
func (r Record) write(l layout.Layout) error {
	if err := os.MkdirAll(l.Upgrade(), 0o700); err != nil {
		return fmt.Errorf("writing down the upgrade: %w", err)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(l.UpgradeState(), append(text, '\n'), 0o600)
}

const minute = "2006-01-02 15:04:05Z"

// Lines says what happened, for `brink status` and for who asked for the upgrade.
func (r Record) Lines() []string {
	at := r.Ended.UTC().Format(minute)
	switch r.Phase {
	case Replacing:
		return []string{fmt.Sprintf("upgrade from %s to %s: %s is stopped, its state is kept and the binary replaced", r.From, r.To, r.Service.Name)}
	case Watching:
		return []string{fmt.Sprintf("upgrade from %s to %s: waiting until the new version is Ready, at most %s; else %s comes back", r.From, r.To, r.Limit, r.From)}
	case Returning:
		return []string{fmt.Sprintf("upgrade from %s to %s: going back: %s", r.From, r.To, r.Reason)}
	case Done:
		return []string{fmt.Sprintf("upgraded from %s to %s at %s", r.From, r.To, at)}
	case Refused:
		return []string{fmt.Sprintf("upgrade from %s to %s at %s was not done, nothing was replaced: %s", r.From, r.To, at, r.Reason)}
	case Failed:
		return append([]string{fmt.Sprintf("upgrade from %s to %s failed at %s, and %s did not come back: %s", r.From, r.To, at, r.From, r.Reason)}, r.Lost.lines()...)
	case Returned:
		if r.ByHand {
			return append([]string{fmt.Sprintf("went back from %s to %s at %s, as somebody asked", r.To, r.From, at)}, r.Lost.lines()...)
		}
		return append([]string{fmt.Sprintf("upgrade from %s to %s failed, %s is back since %s: %s", r.From, r.To, r.From, at, r.Reason)}, r.Lost.lines()...)
	}
	return nil
}

func (l *Lost) lines() []string {
	if l == nil {
		return nil
	}
	var out []string
	if l.Problem != "" {
		out = append(out, l.Problem)
	}
	if l.Since.IsZero() {
		return out
	}
	out = append(out, fmt.Sprintf("the state is that of %s: writes from then until %s (revisions %d to %d) are not in it", l.Since.UTC().Format(minute), l.Until.UTC().Format(minute), l.After+1, l.UpTo))
	if l.KeptIn != "" {
		out = append(out, "the state with these writes is kept in "+l.KeptIn)
	}
	return out
}

// Package once decides what is worth a line in the log: what is new, what has changed, and
// what was last logged so long ago that whoever reads the log today has not seen it. A state
// that is checked every few seconds would otherwise fill a flash card with its lines.
//
// It knows keys and texts and writes nothing: the caller logs, with its own level
// and attributes. Time is time.Now's, so tests run in a synctest bubble.
package once

import (
	"sync"
	"time"
)

// maxKeys bounds what is remembered. What is forgotten is reported again, which costs
// a line.
const maxKeys = 1000

// Reporter remembers what was reported. The zero value reports each change and nothing
// twice. It may be used by several goroutines and must not be copied after first use.
type Reporter struct {
	// Every is after how long an unchanged text is reported again. Zero is never.
	Every time.Duration

	mu   sync.Mutex
	last map[string]report // by key
}

type report struct {
	text string
	at   time.Time
}

// Changed reports whether text is to be logged for key: the first time, when it
// differs from the last text of that key, and every r.Every.
func (r *Reporter) Changed(key, text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	last, known := r.last[key]
	if known && last.text == text && (r.Every == 0 || now.Sub(last.at) < r.Every) {
		return false
	}
	if r.last == nil || !known && len(r.last) >= maxKeys {
		r.last = map[string]report{}
	}
	r.last[key] = report{text: text, at: now}
	return true
}

// Cleared forgets key and reports whether there was something to forget, so that the end of
// a problem is logged only if its beginning was.
func (r *Reporter) Cleared(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.last[key]
	delete(r.last, key)
	return known
}

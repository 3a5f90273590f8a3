package join

import "time"

// said keeps the log from saying the same over and over: a kubelet whose request
// was refused asks again every half a minute.
type said struct {
	times map[string]time.Time
	now   func() time.Time
}

const (
	sayAgain = time.Hour
	maxSaid  = 1000
)

func newSaid() *said { return &said{times: map[string]time.Time{}, now: time.Now} }

// isNew tells whether a line has not been said for a while. It is for one
// goroutine.
func (s *said) isNew(line string) bool {
	now := s.now()
	if last, ok := s.times[line]; ok && now.Sub(last) < sayAgain {
		return false
	}
	if len(s.times) >= maxSaid {
		clear(s.times)
	}
	s.times[line] = now
	return true
}

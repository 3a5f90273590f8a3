package controlplane

import (
	"sync"
	"time"
)

// onDemand holds something costly, which is made when it is wanted and released when nobody
// has wanted it for idle. Both fields, idle and make, must be set.
type onDemand struct {
	idle time.Duration
	// make returns the function that releases what it has made.
	make func() (release func(), err error)

	mu      sync.Mutex
	release func()    // nil while nothing is made
	wanted  time.Time // when it was last wanted
}

// want returns when the thing is made. After an error, the next call tries again.
func (d *onDemand) want() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = time.Now()
	if d.release != nil {
		return nil
	}
	release, err := d.make()
	if err != nil {
		return err
	}
	d.release, d.wanted = release, time.Now()
	time.AfterFunc(d.idle, d.expire)
	return nil
}

// expire releases the thing, or checks again when its time comes.
func (d *onDemand) expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if left := d.idle - time.Since(d.wanted); left > 0 {
		time.AfterFunc(left, d.expire)
		return
	}
	d.release()
	d.release = nil
}

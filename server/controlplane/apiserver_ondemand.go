package controlplane

import (
	"sync"
	"time"
)

// onDemand is something costly: it is made when somebody wants it, and let go of
// when nobody has wanted it for a while. The zero value needs idle and make.
type onDemand struct {
	idle time.Duration
	// make returns how to let go of what it has made.
	make func() (release func(), err error)

	mu      sync.Mutex
	release func()    // nil while there is nothing
	wanted  time.Time // when last
}

// want returns when the thing is there. One that could not be made is tried
// again by the next who wants it.
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

// expire lets go, or looks again when it is time.
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

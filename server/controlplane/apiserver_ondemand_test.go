package controlplane

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counted counts how often it is made and let go of.
type counted struct {
	onDemand
	made, released int
	err            error
}

func newCounted() *counted {
	c := &counted{}
	c.idle = time.Minute
	c.make = func() (func(), error) {
		if c.err != nil {
			return nil, c.err
		}
		c.made++
		return func() { c.released++ }, nil
	}
	return c
}

func (c *counted) mustBe(t *testing.T, made, released int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made != made || c.released != released {
		t.Errorf("made %d times and let go of %d times, want %d and %d", c.made, c.released, made, released)
	}
}

func TestOnDemand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCounted()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { _ = c.want() })
		}
		all.Wait()
		c.mustBe(t, 1, 0)
		for range 5 { // it is used now and then
			time.Sleep(50 * time.Second)
			_ = c.want()
		}
		c.mustBe(t, 1, 0)
		time.Sleep(61 * time.Second)
		c.mustBe(t, 1, 1)
		time.Sleep(time.Hour)
		c.mustBe(t, 1, 1)
		_ = c.want()
		c.mustBe(t, 2, 1)
		time.Sleep(2 * time.Minute)
		c.mustBe(t, 2, 2)
	})
}

func TestOnDemandTriesAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCounted()
		c.err = errors.New("not now")
		if err := c.want(); !errors.Is(err, c.err) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Hour)
		c.mustBe(t, 0, 0)
		c.err = nil
		if err := c.want(); err != nil {
			t.Error(err)
		}
		c.mustBe(t, 1, 0)
		time.Sleep(2 * time.Minute)
		c.mustBe(t, 1, 1)
	})
}

// A panic in the making, which a request handler survives, must not lock out
// those who come after.
func TestOnDemandPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCounted()
		works := c.make
		c.make = func() (func(), error) { panic("half-way") }
		func() {
			defer func() { _ = recover() }()
			_ = c.want()
		}()
		c.make = works
		if err := c.want(); err != nil {
			t.Error(err)
		}
		c.mustBe(t, 1, 0)
		time.Sleep(2 * time.Minute)
	})
}

// Package clock brings the clock of a machine without a battery to a time at which a node
// can work. Such a board starts in 1970, or at the time when its power failed, and reaches
// a time server late or never.
//
// Certificates cannot be used before they begin, nor would what is dated 1970 be worth
// anything after the jump to the right time: expiry of tokens, leases, objects' ages. So a
// clock that is certainly wrong, as it is before brink was built, is waited for, and then
// set to a time that has certainly passed, as systemd does with the time of its own build. A
// clock that may be right is not touched. Rejected: a time of brink's own for certificates
// alone. Kubernetes' parts and TLS ask the system for the time, in this process and in pods.
//
// The jump to the right time, whenever it comes, needs no restart: what depends on the time
// of day looks at it anew every minute.
package clock

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Wait is how long a wrong clock is waited for.
const Wait = time.Minute

// look is how often the clock is looked at meanwhile.
const look = 500 * time.Millisecond

// Clock is the machine's clock. Tests have others.
type Clock struct {
	Now func() time.Time
	// Synchronized reports whether a time server has been reached.
	Synchronized func() bool
	Set          func(time.Time) error
}

// System is the clock of this machine.
func System() Clock { return Clock{time.Now, Synchronized, set} }

// Settled is what became of the clock.
type Settled struct {
	// Was and Is are the times before and after it was set. They are zero if it was not.
	Was, Is time.Time
}

// Settle returns when the clock is not before built. It waits as long as Wait, and then sets
// the clock to what passed returns, which is not before built. A clock that is synchronized is neither
// touched nor waited for: then built is wrong. waiting is called once when there is
// something to wait for.
func (c Clock) Settle(ctx context.Context, built time.Time, passed func() time.Time, waiting func(now time.Time)) (Settled, error) {
	if !c.Now().Before(built) || c.Synchronized() {
		return Settled{}, nil
	}
	waiting(c.Now())
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for range Wait / look {
		select {
		case <-ctx.Done():
			return Settled{}, ctx.Err()
		case <-ticker.C:
		}
		if !c.Now().Before(built) || c.Synchronized() {
			return Settled{}, nil
		}
	}
	was, is := c.Now(), passed()
	if err := c.Set(is); err != nil {
		return Settled{}, fmt.Errorf("the clock says %s and no time server answers: setting it to %s: %w", Stamp(was), Stamp(is), err)
	}
	return Settled{Was: was, Is: is}, nil
}

// Stamp is a time in the form of messages.
func Stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// synchronizedFile is made by systemd-timesyncd.
const synchronizedFile = "/run/systemd/timesync/synchronized"

// Synchronized reports whether a time server has been reached, by what chrony, ntpd and
// systemd-timesyncd tell the kernel.
func Synchronized() bool {
	if _, err := os.Stat(synchronizedFile); err == nil {
		return true
	}
	var t unix.Timex // asks, and changes nothing
	state, err := unix.Adjtimex(&t)
	const notSynchronized = 0x40 // STA_UNSYNC of linux/timex.h
	return err == nil && state != unix.TIME_ERROR && t.Status&notSynchronized == 0
}

func set(to time.Time) error {
	at := unix.NsecToTimespec(to.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &at)
}

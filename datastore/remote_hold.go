package datastore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/sleep"
)

const (
	// holderFile in Config.Dir has a random name, by which a data directory recognises its
	// own hold on a database.
	holderFile = layout.HolderFile
	// watchHolder is how often a hold of somebody else is looked at.
	watchHolder = time.Second
	// holderDead is after how long without a renewal a holder counts as dead: several
	// renewals, each of which may take some time.
	holderDead = 3*renewEvery + answerTime
	machineID  = "/etc/machine-id"
)

// hold is this server's hold on a database. A database serves one server: two
// would each take the other's objects for orphans, and controllers would delete
// what the other's make.
//
// That a holder lives is seen by a counter that moves, not by comparing clocks:
// those of machines differ. A hold of this very data directory on this very
// machine is taken over at once, since the directory's lock says that the server
// that had it is gone. A server that loses the hold while running ends, and takes a new
// name at the next start. Otherwise, if a copy of its directory has taken over, the two
// would throw each other out for ever.
type hold struct {
	registry registry
	log      *slog.Logger
	place    string
	node     string
	file     string
	dead     time.Duration // holderDead but in tests

	holder string
	held   atomic.Bool
}

// name is the hold's name in the database: letters and digits.
func (h *hold) name() string { return h.holder }

// prepare reads or makes the name. It differs for each start; the part before
// the x is the data directory's.
func (h *hold) prepare() error {
	id, err := os.ReadFile(h.file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(id) == 0 {
		id = []byte(rand.Text())
		err = atomicfile.Write(h.file, id, 0o600)
	}
	if err != nil {
		return fmt.Errorf("reading the name of this server's hold on the database: %w", err)
	}
	machine, err := os.ReadFile(machineID)
	if err != nil {
		name, _ := os.Hostname()
		machine = []byte(name)
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{string(id), string(machine), h.file}, "\n")))
	h.holder = hex.EncodeToString(sum[:16]) + "x" + rand.Text()
	return nil
}

// isOwn reports whether a hold was taken from this data directory.
func (h *hold) isOwn(holder string) bool {
	directory, _, _ := strings.Cut(h.holder, "x")
	return strings.HasPrefix(holder, directory+"x")
}

// acquire takes the hold of a database if check accepts its claim. If there is another holder,
// it waits long enough to see whether that one still renews its hold.
func (h *hold) acquire(ctx context.Context, check func(context.Context, claim) error) error {
	first, err := h.checked(ctx, check)
	if err != nil {
		return err
	}
	seen, watched := first, time.Duration(0)
	for seen.holder != "" && !h.isOwn(seen.holder) && watched < h.dead {
		if watched == 0 {
			h.log.Warn("another server may hold the database: waiting to see whether it renews its hold", "database", h.place, "node", seen.node, "at most", h.dead)
		}
		begun := time.Now()
		sleep.For(ctx, watchHolder)
		if err := ctx.Err(); err != nil {
			return err
		}
		watched += time.Since(begun)
		if seen, err = h.checked(ctx, check); err != nil {
			return err
		}
		if seen.holder == first.holder && seen.counter != first.counter {
			return fmt.Errorf("the database at %s is in use by the server of node %s, which renewed its hold %s: stop that one first, or give this one a database of its own",
				h.place, seen.node, ago(seen.age))
		}
		if seen.holder != first.holder {
			first, watched = seen, 0
		}
	}
	ok, err := h.registry.take(ctx, seen, h.holder, h.node)
	if err == nil && !ok {
		return fmt.Errorf("the database at %s was taken by another server at this moment: run one server only on a database", h.place)
	}
	h.held.Store(err == nil)
	return err
}

func (h *hold) checked(ctx context.Context, check func(context.Context, claim) error) (claim, error) {
	c, err := h.registry.read(ctx)
	if err == nil {
		err = check(ctx, c)
	}
	return c, err
}

// unknownAge stands for the age of a hold in a database without a clock.
const unknownAge = -1 << 62

func ago(age time.Duration) string {
	if age == unknownAge {
		return "a moment ago"
	}
	return max(age, 0).Truncate(time.Second).String() + " ago"
}

// renew renews the hold. It returns errTaken when another server has it.
func (h *hold) renew(ctx context.Context) error {
	ok, err := h.registry.renew(ctx, h.holder)
	if err == nil && !ok {
		return errTaken
	}
	return err
}

// lost returns the error with which a server ends when its hold was taken.
func (h *hold) lost(ctx context.Context) error {
	h.held.Store(false)
	by := "another server"
	if c, err := h.registry.read(ctx); err == nil && c.node != "" {
		by = "the server of node " + c.node
	}
	if err := os.Remove(h.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.log.Warn("the name of the hold that was lost cannot be given up", "path", h.file, "error", err)
	}
	return fmt.Errorf("the database at %s was taken over by %s while this one could not renew its hold: run one server only on a database", h.place, by)
}

// release gives the hold back, so that another server can take it at once.
func (h *hold) release() {
	if !h.held.Swap(false) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if err := h.registry.release(ctx, h.holder); err != nil {
		h.log.Warn("the hold on the database could not be given back: a server elsewhere waits for a while before it takes it", "database", h.place, "error", oneLine(err))
	}
}

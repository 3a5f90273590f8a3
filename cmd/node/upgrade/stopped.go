package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"brink/internal/initsystem"
	"brink/internal/layout"
	"brink/server/snapshot"
)

// stopped describes a brink that does not run, for who goes back because of that.
func (b Back) stopped(ctx context.Context) (r Record, err error) {
	last, err := Read(b.Layout)
	if err != nil { // none, or one that cannot be read
		last, err = b.installed(ctx)
	}
	if err != nil {
		return r, err
	}
	r = Record{DataDir: b.Layout.Data(), Binary: last.Binary, Service: last.Service, Agent: last.Agent, Elsewhere: last.Elsewhere, Begun: time.Now().UTC().Round(time.Second)}
	if err := b.Hold.take(b.Layout, r.Binary); err != nil {
		return r, err
	}
	has, err := versionOf(ctx, r.Binary)
	if err == nil {
		r.From = has.String()
		return r, nil
	}
	used, _ := snapshot.ReadState(b.Layout)
	r.From = cmp.Or(used.Version, "a version that does not run here")
	return r, nil
}

// installed is what there is to know of a brink that was never upgraded by brink upgrade.
func (b Back) installed(ctx context.Context) (r Record, err error) {
	all, err := initsystem.Find(ctx, initsystem.Query{Uses: b.Uses})
	if err != nil {
		return r, err
	}
	for _, s := range all {
		if s.IsDaemon {
			r.Service = s
		}
	}
	if r.Service.Name == "" {
		return r, errors.New("no brink runs, and no service of systemd or OpenRC starts one: put the version before into its place by hand")
	}
	program, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("finding brink's binary: %w", err)
	}
	r.Binary = strings.TrimSuffix(program, previousSuffix)
	r.Agent, r.Elsewhere = roles(b.Layout)
	return r, nil
}

// roles tells by what lies in a data directory whether it is an agent's, and whether its
// server's database is elsewhere.
func roles(l layout.Layout) (isAgent, isElsewhere bool) {
	_, used := os.Lstat(l.StateVersion())
	_, database := os.Lstat(l.Database())
	return used != nil && database != nil, used == nil && database != nil
}

package uninstall

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// stops returns how each container is stopped. Where that is not known, because the
// database cannot be read or the container is not a pod's, it is as for a pod that asks
// for nothing.
func (u *run) stops() map[string]Stop {
	known := map[string]Stop{}
	if u.Stops != nil {
		var err error
		if known, err = u.Stops(); err != nil {
			u.Kept(fmt.Sprintf("no pod waiting for longer than %s: %v", podGrace, err))
		}
	}
	out := map[string]Stop{}
	for _, b := range u.bundles {
		s, ok := known[b.id]
		switch {
		case u.Stops == nil:
			s = Stop{syscall.SIGTERM, u.Grace}
		case !ok:
			s = Stop{syscall.SIGTERM, podGrace}
		}
		if s.Signal == 0 {
			s.Signal = syscall.SIGTERM
		}
		if u.Grace > 0 {
			s.Grace = min(s.Grace, u.Grace)
		}
		out[b.id] = s
	}
	return out
}

// terminate gives the first process of each container the chance to end well, as the
// kubelet does, each for as long as it may take. It leaves out those of sandboxes, which
// do nothing.
func (u *run) terminate(ctx context.Context, shims []int, stops map[string]Stop) {
	isAlive := func(b bundle) bool { return slices.Contains(shims, parentOf(b.init)) }
	begun, longest := time.Now(), time.Duration(0)
	var waited []bundle
	for _, b := range u.bundles {
		if !b.sandbox && isAlive(b) {
			signalInit(stops[b.id].Signal, b, isAlive)
			waited, longest = append(waited, b), max(longest, stops[b.id].Grace)
		}
	}
	waitFor(ctx, longest, func() bool {
		waited = slices.DeleteFunc(waited, func(b bundle) bool {
			if time.Since(begun) > stops[b.id].Grace {
				signalInit(syscall.SIGKILL, b, isAlive)
			}
			return !isAlive(b)
		})
		return len(waited) == 0
	})
}

func signalInit(sig syscall.Signal, b bundle, isAlive func(bundle) bool) {
	signal(sig, func() map[int]bool {
		if !isAlive(b) {
			return nil
		}
		return map[int]bool{b.init: true}
	})
}

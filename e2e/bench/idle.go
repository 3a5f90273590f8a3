package main

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/openapi"
)

// used looks at the memory again when somebody has used kubectl apply or explain,
// once: both sides then hold what they made for it.
func (r *runOf) used() error {
	if !r.first {
		return nil
	}
	if err := r.use(); err != nil {
		return err
	}
	if err := r.sleep(r.settings.settle); err != nil {
		return err
	}
	own, err := memoryOf(r.machine.own())
	r.note("usedpss", float64(own.pss))
	r.note("usedanon", float64(own.anon))
	return err
}

// use asks once for what kubectl apply and kubectl explain ask for: the schemas
// of all objects, which a server makes when somebody wants them and may keep.
func (r *runOf) use() error {
	client, err := connect(r.ctx, r.machine, r.node.kubeconfig())
	if err != nil {
		return err
	}
	if _, err := client.Discovery().OpenAPISchema(); err != nil {
		return fmt.Errorf("asking for /openapi/v2: %w", err)
	}
	groups, err := client.Discovery().OpenAPIV3().Paths()
	if err != nil {
		return fmt.Errorf("asking for /openapi/v3: %w", err)
	}
	apps := groups["apis/apps/v1"]
	if apps == nil {
		return fmt.Errorf("/openapi/v3 does not have apis/apps/v1 among %d", len(groups))
	}
	if _, err := apps.Schema(openapi.ContentTypeOpenAPIV3PB); err != nil {
		return fmt.Errorf("asking for /openapi/v3/apis/apps/v1: %w", err)
	}
	return nil
}

func (r *runOf) settle() error {
	if err := r.sleep(r.settings.settle); err != nil {
		return err
	}
	own, err := memoryOf(r.machine.own())
	if err != nil {
		return err
	}
	shims, err := memoryOf(r.machine.Shims())
	r.note("pss", float64(own.pss))
	r.note("anon", float64(own.anon))
	r.note("shims", float64(shims.pss))
	return err
}

func (r *runOf) sleep(d time.Duration) error {
	r.log.Info("idle", "for", d)
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// idle counts what a node without work consumes, and what the rest of the host
// does at the same time. The first run goes on for as long as it takes until
// everything that is written now and then has been written.
func (r *runOf) idle() error {
	pids := pidsOf(r.node.running())
	begun := time.Now()
	before, hostBefore, err := r.consumed()
	if err != nil {
		return err
	}
	if err := r.sleep(r.settings.idle); err != nil {
		return err
	}
	after, hostAfter, err := r.consumed()
	if err != nil {
		return err
	}
	took := time.Since(begun)
	own := after.cpu - before.cpu
	r.note("cpu", own.Seconds()/took.Seconds())
	// Ticks are rounded here and there: a silent host can come out below zero.
	r.note("others", max(0, (hostAfter-hostBefore-own).Seconds()/took.Seconds()))
	if r.first {
		if err := r.disk(begun, before); err != nil {
			return err
		}
	}
	if now := pidsOf(r.node.running()); !slices.Equal(pids, now) {
		return fmt.Errorf("a program ended by itself while idle: processes were %v, now %v", pids, now)
	}
	return nil
}

// disk counts what was written since a moment, when that much time has passed.
// It notes a server that wrote no leases and events meanwhile: its figure would
// leave out most of what it writes.
func (r *runOf) disk(begun time.Time, before usage) error {
	if err := r.sleep(time.Until(begun.Add(r.settings.disk))); err != nil {
		return err
	}
	after, _, err := r.consumed()
	if err != nil {
		return err
	}
	r.note("disk", float64(after.written-before.written)/time.Since(begun).Hours())
	b, isBrink := r.node.(*brinkNode)
	if !isBrink || r.cluster != nil {
		return nil
	}
	saved, err := b.saved()
	if err == nil && saved.Before(begun) {
		r.note(unsaved, 1)
	}
	return err
}

// consumed is what the machine's own processes and the whole host have so far.
func (r *runOf) consumed() (own usage, all time.Duration, err error) {
	own, err = usageOf(r.machine.own())
	if err != nil {
		return own, 0, err
	}
	all, err = hostCPU()
	return own, all, err
}

package lifecycle

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestNeeds(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	readied := map[string]bool{}
	isReady := func(name string) bool {
		mu.Lock()
		defer mu.Unlock()
		return readied[name]
	}
	slow := make(chan struct{})
	component := func(name string, needs []string, before func()) Component {
		return Component{Name: name, Needs: needs, Run: func(ctx context.Context, ready func()) error {
			before()
			mu.Lock()
			readied[name] = true
			mu.Unlock()
			ready()
			<-ctx.Done()
			return nil
		}}
	}
	g := &Group{}
	g.Add(
		component("slow", Nothing, func() { <-slow }),
		// Listed behind the slow one and needs nothing: it is what lets the
		// slow one go on.
		component("at-once", Nothing, func() { close(slow) }),
		component("after-both", []string{"slow", "at-once"}, func() {
			if !isReady("slow") || !isReady("at-once") {
				t.Error("started before what it needs was ready")
			}
		}),
		component("after-previous", nil, func() {
			if !isReady("after-both") {
				t.Error("started before the one listed before it was ready")
			}
		}),
	)
	ctx, cancel := context.WithCancel(context.Background())
	if err := g.Run(ctx, cancel); err != nil {
		t.Fatal(err)
	}
	if !isReady("after-previous") {
		t.Error("the group was ready before its last component")
	}
}

func TestNeedsThatCannotBeMet(t *testing.T) {
	t.Parallel()
	idle := func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return nil }
	cases := map[string][]Component{
		"a needs b, but there is no such component": {{Name: "a", Needs: []string{"b"}, Run: idle}},
		"dependency cycle through a":                {{Name: "a", Needs: []string{"b"}, Run: idle}, {Name: "b", Run: idle}},
		"two components are called a":               {{Name: "a", Run: idle}, {Name: "a", Run: idle}},
	}
	for want, components := range cases {
		g := &Group{}
		g.Add(components...)
		if err := g.Run(context.Background(), func() { t.Error("ready") }); err == nil || err.Error() != want {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestFailureKeepsOthersFromStarting(t *testing.T) {
	t.Parallel()
	g := &Group{}
	g.Add(
		Component{Name: "broken", Run: func(context.Context, func()) error { return errors.New("no") }},
		Component{Name: "next", Run: func(context.Context, func()) error { t.Error("started"); return nil }},
	)
	if err := g.Run(context.Background(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), "broken: no") {
		t.Errorf("error %v", err)
	}
	if s := g.Status()[1].State; s != Pending {
		t.Errorf("next is %s, want pending", s)
	}
}

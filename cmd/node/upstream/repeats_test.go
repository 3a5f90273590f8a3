package upstream

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRepeats: a line that a kubelet logs again and again is written once in repeatAfter,
// and every line that differs is written.
func TestRepeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testRepeats)
}

func testRepeats(t *testing.T) {
	var out bytes.Buffer
	h := newRepeats(slog.NewTextHandler(&out, nil))
	log := slog.New(h)
	wrote := func(want ...string) {
		t.Helper()
		hasLines(t, &out, want...)
	}
	lease := func(err string) {
		log.Error("Failed to update lease", "err", errors.New(err))
		time.Sleep(10 * time.Second)
	}
	for range 10 {
		lease("Put \"https://192.0.2.1:6443/a?timeout=10s\": context deadline exceeded")
		lease("Put \"https://192.0.2.1:6443/b\": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)")
	}
	wrote("Failed to update lease")
	time.Sleep(repeatAfter)
	lease("Put \"https://192.0.2.1:6443/a\": dial tcp 192.0.2.1:6443: connect: connection refused")
	wrote("repeated=19")
	lease("leases is forbidden")
	wrote("forbidden")
	for i := range 3 {
		log.Error("Failed to ensure lease exists, will retry", "interval", fmt.Sprint(i), "err", "EOF")
		log.Error(fmt.Sprintf("Unable to write event: dial: connection refused at %d", i))
	}
	wrote("Failed to ensure", "Unable to write")
	for _, hook := range []string{"one", "two", "one"} {
		log.Warn("Failed calling webhook, failing closed " + hook + `: failed to call webhook: Post "https://x": context deadline exceeded`)
	}
	wrote("closed one", "closed two")
	for _, cause := range []string{`failed to "StartContainer" for "main": hook: dial: connection refused`, `failed to "PullImage" for "main": rpc error: deadline exceeded`} {
		log.Error("Error syncing pod, skipping", "err", cause)
	}
	wrote("StartContainer", "PullImage")
	for _, pod := range []string{"a", "b", "a"} {
		log.With("pod", pod).Error("Error syncing pod")
		log.WithGroup("g").Error("Error syncing pod", "pod", pod)
	}
	wrote("pod=a", "g.pod=a", "pod=b", "g.pod=b")
	log.Warn("Failed to update lease", "err", "connection refused")
	wrote("level=WARN")
	for i := range 3 * maxRemembered {
		log.Error("one", "of", i)
	}
	if len(h.lines.written) > maxRemembered {
		t.Errorf("remembers %d lines", len(h.lines.written))
	}
}

// hasLines empties out, which should have as many lines as want, each with a part of it.
func hasLines(t *testing.T, out *bytes.Buffer, want ...string) {
	t.Helper()
	lines := slices.Collect(strings.Lines(out.String()))
	out.Reset()
	if len(lines) != len(want) {
		t.Fatalf("wrote %q, want %q", lines, want)
	}
	for i, part := range want {
		if !strings.Contains(lines[i], part) {
			t.Errorf("wrote %s, want %s", lines[i], part)
		}
	}
}

// TestRepeatsOfConnections: gRPC logs the same of each of its connections, of which an API
// server has seventy to an etcd.
func TestRepeatsOfConnections(t *testing.T) {
	t.Parallel()
	said := map[string]bool{}
	for i := range 70 {
		said[normalized(fmt.Sprintf(`[core] [Channel #%d SubChannel #%d] grpc: addrConn.createTransport failed to connect to {Addr: "192.0.2.1:2379"}. `+
			`Err: connection error: desc = "transport: Error while dialing: dial tcp 192.0.2.1:2379: connect: connection refused"`, i, i+1))] = true
	}
	if len(said) != 1 {
		t.Errorf("it is said in %d ways: %v", len(said), said)
	}
}

package node

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"brink/cmd/node/upstream"
	"brink/internal/atomicfile"
	"brink/internal/clock"
	"brink/internal/layout"
)

// passed is a time that has certainly passed: when this brink was built, or the beginning
// of the latest of the node's certificates.
func passed(l layout.Layout, built time.Time) time.Time {
	latest := built
	for _, pattern := range l.Certificates() {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if begins := beginsAt(file); begins.After(latest) {
				latest = begins
			}
		}
	}
	return latest
}

// beginsAt returns when the first certificate in a file begins, the zero Time if there is
// none.
func beginsAt(file string) time.Time {
	text, err := atomicfile.ReadTarget(file)
	if err != nil {
		return time.Time{}
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			return cert.NotBefore
		}
	}
	return time.Time{}
}

// settleClock waits for a clock that is certainly wrong, since it says a time before brink
// was built, and then sets it. It returns what `brink status` warns of: nil, or an error
// until a time server is reached, or somebody sets the clock.
func settleClock(ctx context.Context, c clock.Clock, l layout.Layout, built time.Time, globals *upstream.Globals) (warning func() error, err error) {
	settled, err := c.Settle(ctx, built, func() time.Time { return passed(l, built) }, func(now time.Time) {
		_ = notifySystemd(globals.NotifySocket, "STATUS=waiting for a time server") // for people to read
		slog.Warn(fmt.Sprintf("the clock says %s, which is before %s: waiting %s at most for a time server", clock.Stamp(now), clock.Stamp(built), clock.Wait), "component", "brink")
	})
	if err != nil || settled.Is.IsZero() {
		return func() error { return nil }, err
	}
	line := fmt.Errorf("the clock said %s and no time server answered: brink has set it to %s, which has certainly passed", clock.Stamp(settled.Was), clock.Stamp(settled.Is))
	slog.Warn(line.Error(), "component", "brink")
	began := time.Now()
	return func() error {
		jump := c.Now().Sub(settled.Is) - time.Since(began) // what the clock has moved by and time has not
		if c.Synchronized() || jump.Abs() > time.Minute {
			return nil
		}
		return line
	}, nil
}

package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"brink/cmd/node/upstream"
	"brink/internal/clock"
	"brink/internal/layout"
)

// writeCertificate writes a certificate that begins at a time, after its key.
func writeCertificate(t *testing.T, path string, begins time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begins, NotAfter: begins.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x")}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPassed: the latest of all certificates counts, wherever the node keeps it, and what
// is no certificate does not.
func TestPassed(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	built := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	if got := passed(l, built); !got.Equal(built) {
		t.Errorf("without certificates it is %s", got)
	}
	begins := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, path := range []string{l.Cert(layout.ServerCA), l.ClientCA(), filepath.Join(l.KubeletCerts(), "kubelet-server-current.pem")} {
		writeCertificate(t, path, begins.AddDate(i, 0, 0))
		if got, want := passed(l, built), begins.AddDate(i, 0, 0); !got.Equal(want) {
			t.Errorf("with %s it is %s, want %s", path, got, want)
		}
	}
	if err := os.WriteFile(l.Cert("broken"), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := passed(l, built), begins.AddDate(2, 0, 0); !got.Equal(want) {
		t.Errorf("with a broken file it is %s, want %s", got, want)
	}
}

// TestClockWarning: `brink status` warns until a time server is reached.
func TestClockWarning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testClockWarning) // in which the minute passes at once
}

func testClockWarning(t *testing.T) {
	l := layout.New(t.TempDir())
	now, synchronized := time.Unix(60, 0), false
	c := clock.Clock{Now: func() time.Time { return now }, Synchronized: func() bool { return synchronized }, Set: func(to time.Time) error { now = to; return nil }}
	settle := func(built time.Time) func() error {
		warning, err := settleClock(t.Context(), c, l, built, &upstream.Globals{})
		if err != nil {
			t.Fatal(err)
		}
		return warning
	}
	if err := settle(time.Time{})(); err != nil {
		t.Errorf("the time of the build is not known and it warns: %v", err)
	}
	begins := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	writeCertificate(t, l.ClientCA(), begins)
	warning := settle(begins.AddDate(-1, 0, 0))
	if err := warning(); err == nil || !strings.Contains(err.Error(), "1970-01-01T00:01:00Z") || !now.Equal(begins) {
		t.Errorf("the clock says %s and the warning %v", now, err)
	}
	now = now.AddDate(0, 6, 0)
	if err := warning(); err != nil {
		t.Errorf("after somebody has set the clock it still warns: %v", err)
	}
	now, synchronized = begins, true
	if err := warning(); err != nil {
		t.Errorf("it still warns: %v", err)
	}
}

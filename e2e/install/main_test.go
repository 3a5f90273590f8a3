// Package install tests what installs, updates and removes brink, on Debian systems
// that are booted for it (package guest).
package install

import (
	"os"
	"testing"

	"brink/e2e/guest"
)

func TestMain(m *testing.M) { os.Exit(guest.Main(m)) }

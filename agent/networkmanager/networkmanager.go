// Package networkmanager keeps a running NetworkManager away from the links of pods, which
// it would otherwise ask for addresses on machines whose configuration says itself which
// links are not managed. It does so by a file in NetworkManager's directory that the ledger
// records, and by the signal for reading it: nmcli may be missing.
//
// A NetworkManager of another network namespace, and one that is not installed, are left
// alone.
package networkmanager

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"brink/agent/ledger"
	"brink/internal/host"
	"brink/internal/layout"
)

// Tell writes the file where NetworkManager runs, and has it read.
func Tell(l layout.Layout) error {
	// Before all processes are looked at: most machines do not have the directory.
	if _, err := os.Stat(filepath.Dir(host.NetworkManagerFile)); err != nil {
		return nil
	}
	if len(host.Running(program)) == 0 {
		return nil
	}
	written, err := ledger.PutFile(l, host.NetworkManagerFile, host.NetworkManagerText)
	if err != nil || !written {
		return err
	}
	return Reload()
}

const program = "NetworkManager"

// Reload has NetworkManager read its files again.
func Reload() error {
	var errs []error
	for _, text := range host.Running(program) {
		pid, err := strconv.Atoi(text)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGHUP)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("having NetworkManager (pid %s) read its files: %w", text, err))
		}
	}
	return errors.Join(errs...)
}

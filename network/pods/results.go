package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cniResult is the part that is used of what the CNI library records about a pod in
// the file <CacheDir>/results/<network>-<container>-<interface>
// (github.com/containernetworking/cni v1.3.0, libcni/api.go).
type cniResult struct {
	Network      string `json:"networkName"`
	Container    string `json:"containerId"`
	Capabilities struct {
		Ports []portMapping `json:"portMappings"`
	} `json:"capabilityArgs"`
	Result struct {
		Interfaces []cniInterface `json:"interfaces"`
		IPs        []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	} `json:"result"`
}

type cniInterface struct {
	Name    string `json:"name"`
	Sandbox string `json:"sandbox"` // empty for the host's side
}

// isRunning reports whether the pod's network namespace exists.
func (r cniResult) isRunning() bool {
	return slices.ContainsFunc(r.Result.Interfaces, func(i cniInterface) bool {
		var stat unix.Statfs_t
		return i.Sandbox != "" && unix.Statfs(i.Sandbox, &stat) == nil && stat.Type == unix.NSFS_MAGIC
	})
}

// eachPod calls do with the CNI library's record of each pod that has a lease.
func eachPod(cfg Config, do func(cniResult)) error {
	holders, err := leaseholders(cfg.leases())
	if err != nil {
		return fmt.Errorf("reading address leases: %w", err)
	}
	paths, err := filepath.Glob(filepath.Join(cfg.CacheDir, "results", networkName+"-*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		var r cniResult
		// A file that is gone or half written is of a pod that comes or goes.
		if data, err := os.ReadFile(path); err != nil || json.Unmarshal(data, &r) != nil {
			continue
		}
		if r.Network == networkName && holders[r.Container] {
			do(r)
		}
	}
	return nil
}

// lastRecorded returns when a file of the CNI library's records was made or removed, to
// the kernel's precision of a tick; zero while there are none.
func lastRecorded(cfg Config) time.Time {
	info, err := os.Stat(filepath.Join(cfg.CacheDir, "results"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// leases is the host-local plugin's directory for brink's network.
func (c Config) leases() string { return filepath.Join(c.StateDir, networkName) }

// hasLeases reports whether a pod has an address: the plugin keeps a file of the
// address's name for each.
func hasLeases(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		_, err := netip.ParseAddr(e.Name())
		return err == nil
	})
}

// leaseholders returns the ids of the containers that have an address, from the first
// lines of the leases.
func leaseholders(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ids := map[string]bool{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // its pod went in the meantime
		}
		if err != nil {
			return nil, err
		}
		id, _, _ := strings.Cut(string(data), "\n")
		ids[strings.TrimSpace(id)] = true
	}
	delete(ids, "")
	return ids, nil
}

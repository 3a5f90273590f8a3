package cmd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/internal/testerror"
)

// parsedBackend is the network backend of a command with these arguments and
// this configuration file.
func parsedBackend(t *testing.T, file string, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	var backend string
	flags := serverFlags()
	app := &cli.App{Name: "brink", Flags: flags, Action: func(c *cli.Context) error {
		if err := applyConfigFile(c, flags); err != nil {
			return err
		}
		var err error
		backend, err = networkBackend(c)
		return err
	}}
	err := app.Run(append([]string{"brink", "--config", path}, args...))
	return backend, err
}

func TestNetworkBackend(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, file string
		args       []string
		want, line string // the backend, or a part of the error
	}{
		{"default", "", nil, "vxlan", ""},
		{"first name", "", []string{"--flannel-backend=host-gw"}, "host-gw", ""},
		{"second name", "", []string{"--network-backend=none"}, "none", ""},
		{"both, the same", "", []string{"--network-backend=none", "--flannel-backend=none"}, "none", ""},
		{"both", "", []string{"--network-backend=none", "--flannel-backend=vxlan"}, "", "--network-backend=none: --flannel-backend, which is the same, says vxlan: give one of them"},
		{"file", "flannel-backend: host-gw", nil, "host-gw", ""},
		{"file, second name", "network-backend: host-gw", nil, "host-gw", ""},
		{"a flag wins over a file", "flannel-backend: host-gw", []string{"--network-backend=none"}, "none", ""},
		{"a flag wins over a file, the other way", "network-backend: host-gw", []string{"--flannel-backend=none"}, "none", ""},
		{"file with both", "network-backend: host-gw\nflannel-backend: none", nil, "", "give one of them"},
		{"unknown", "", []string{"--flannel-backend=vlan"}, "", "--flannel-backend=vlan: must be one of vxlan, host-gw, none"},
		{"empty", "", []string{"--flannel-backend="}, "", "--flannel-backend=: must be one of"},
		{"k3s's WireGuard", "", []string{"--flannel-backend=wireguard-native"}, "", "--flannel-backend=wireguard-native: there is no such backend: brink does not encrypt between nodes"},
		{"flannel's udp", "", []string{"--network-backend=udp"}, "", "--network-backend=udp: there is no such backend: use vxlan"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := parsedBackend(t, test.file, test.args...)
			if test.line != "" {
				testerror.OneLine(t, err, test.line)
			} else if err != nil || got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

package network

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestConflist(t *testing.T) {
	t.Parallel()
	cfg := dualStack(t)
	cfg.CNIStateDir = "/var/lib/brink/agent/cni/state"
	cfg.MTU = 1450
	got, err := wantedConflist(cfg.withDefaults())
	must(t, err)
	want := `{
  "cniVersion": "1.1.0",
  "name": "brink",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "brink0",
      "isGateway": true,
      "forceAddress": true,
      "hairpinMode": true,
      "mtu": 1450,
      "ipam": {
        "type": "host-local",
        "dataDir": "/var/lib/brink/agent/cni/state",
        "ranges": [
          [
            {
              "subnet": "10.42.3.0/24"
            }
          ],
          [
            {
              "subnet": "fd42:0:0:3::/64"
            }
          ]
        ],
        "routes": [
          {
            "dst": "0.0.0.0/0"
          },
          {
            "dst": "::/0"
          }
        ]
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      },
      "backend": "nftables",
      "snat": true
    }
  ]
}
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestConflistIsWrittenOnlyWhenItDiffers(t *testing.T) {
	t.Parallel()
	cfg := dualStack(t).withDefaults()
	path := filepath.Join(cfg.CNIConfDir, conflistName)
	write := func(cfg Config) os.FileInfo {
		t.Helper()
		must(t, writeConflist(cfg))
		data, err := os.ReadFile(path)
		must(t, err)
		if want, err := wantedConflist(cfg); err != nil || !bytes.Equal(data, want) || !json.Valid(data) {
			t.Errorf("got %s (%v)", data, err)
		}
		info, err := os.Stat(path)
		must(t, err)
		return info
	}
	first := write(cfg)
	if !os.SameFile(first, write(cfg)) {
		t.Error("written again without a change")
	}
	cfg.MTU = 1400
	if os.SameFile(first, write(cfg)) {
		t.Error("not written with another MTU")
	}
	must(t, os.Remove(path))
	write(cfg)
}

package pods

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"brink/network/testnet"
)

const dualStackConflist = `{
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

func TestConflist(t *testing.T) {
	t.Parallel()
	cfg := dualStack(t)
	cfg.StateDir = "/var/lib/brink/agent/cni/state"
	got, err := wantedConflist(cfg, 1450)
	testnet.Must(t, err)
	if string(got) != dualStackConflist {
		t.Errorf("got\n%s\nwant\n%s", got, dualStackConflist)
	}
}

func TestConflistIsWrittenOnlyWhenItDiffers(t *testing.T) {
	t.Parallel()
	cfg := dualStack(t)
	path := filepath.Join(cfg.ConfDir, conflistName)
	write := func(mtu int) os.FileInfo {
		t.Helper()
		testnet.Must(t, writeConflist(cfg, mtu))
		data, err := os.ReadFile(path)
		testnet.Must(t, err)
		if want, err := wantedConflist(cfg, mtu); err != nil || !bytes.Equal(data, want) || !json.Valid(data) {
			t.Errorf("got %s (%v)", data, err)
		}
		info, err := os.Stat(path)
		testnet.Must(t, err)
		return info
	}
	first := write(1450)
	if !os.SameFile(first, write(1450)) {
		t.Error("written again without a change")
	}
	if os.SameFile(first, write(1400)) {
		t.Error("not written with another MTU")
	}
	testnet.Must(t, os.Remove(path))
	write(1450)
}

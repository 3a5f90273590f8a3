package install

import (
	"strings"
	"testing"

	"brink/e2e/guest"
)

// TestDist fetches a release as install.sh does, by what is on every machine.
func TestDist(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	d := guest.NewDist(t)
	version := d.Add(guest.Program(t))
	url := g.Serve(d.Dir)
	if got := g.Do("curl", "-sf", url+"/channels/stable"); got != version {
		t.Errorf("the stable version is %q, want %q", got, version)
	}
	of := url + "/" + strings.ReplaceAll(version, "+", "%2B")
	g.Sh(`cd /root
curl -sfO ` + of + `/SHA256SUMS
curl -sfO ` + of + `/brink-linux-amd64.gz
sha256sum -c --ignore-missing SHA256SUMS
gunzip brink-linux-amd64.gz
sha256sum -c --ignore-missing SHA256SUMS
chmod +x brink-linux-amd64
rm SHA256SUMS`)
	if got := g.Do("/root/brink-linux-amd64", "version"); !strings.HasPrefix(got, "brink ") {
		t.Errorf("what was fetched says %q", got)
	}
}

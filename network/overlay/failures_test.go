package overlay

import (
	"errors"
	"strings"
	"testing"

	"brink/network/testnet"
)

var failures = []struct {
	name, fail   string
	before, then []Peer
	want         string // the changes
}{
	{"FDB entry", "set fdb", []Peer{peer(2, "")}, []Peer{peer(3, "")}, `
set fdb MAC3 dst 192.0.2.3 dev 7 FAILS
set neigh 10.42.3.0 lladdr MAC3 dev 7
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
	{"FDB entry of a peer that has moved", "set fdb", []Peer{peer(2, ""), peer(3, "")}, []Peer{peerAt(2, "192.0.2.22")}, `
set fdb MAC2 dst 192.0.2.22 dev 7 FAILS
delete route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete neigh 10.42.3.0 dev 7
delete fdb MAC3 dst 192.0.2.3 dev 7`},
	{"route that is to go", "delete route 10.42.2", []Peer{peer(2, ""), peer(3, ""), peer(4, "")}, []Peer{peer(4, "")}, `
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink FAILS
delete route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete neigh 10.42.3.0 dev 7
delete fdb MAC3 dst 192.0.2.3 dev 7`},
	{"neighbour", "set neigh", []Peer{peer(2, "")}, []Peer{peer(3, "")}, `
set fdb MAC3 dst 192.0.2.3 dev 7
set neigh 10.42.3.0 lladdr MAC3 dev 7 FAILS
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
	{"one of two routes", "route 10.42.3", []Peer{peer(2, "")}, []Peer{peer(2, ""), peer(3, ""), peer(4, "")}, `
set fdb MAC4 dst 192.0.2.4 dev 7
set fdb MAC3 dst 192.0.2.3 dev 7
set neigh 10.42.3.0 lladdr MAC3 dev 7
set neigh 10.42.4.0 lladdr MAC4 dev 7
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink FAILS
add route 10.42.4.0/24 via 10.42.4.0 dev 7 onlink`},
	{"direct route instead of the tunnel", "replace route", []Peer{peer(2, VXLAN)}, []Peer{peer(2, HostGW)}, `
replace route 10.42.2.0/24 via 192.0.2.2 dev 2 FAILS`},
	{"device", "make link", []Peer{peer(2, HostGW)}, []Peer{peer(2, HostGW), peer(3, VXLAN), peer(4, HostGW)}, `
make link brink-vxlan FAILS
add route 10.42.4.0/24 via 192.0.2.4 dev 2`},
	{"device instead of a direct route", "make link", []Peer{peer(2, HostGW)}, []Peer{peer(2, VXLAN)}, `
make link brink-vxlan FAILS`},
	{"device not removed", "remove link", []Peer{peer(2, VXLAN)}, nil, `
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
remove link brink-vxlan FAILS`},
}

// TestFailures: a change that fails leaves what still works, and is made up for.
func TestFailures(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, tt := range failures {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(HostGW)
			if tt.before[0].Backend == "" {
				k, kernel = fakeNode(VXLAN)
			}
			k.desired.SetPeers(tt.before)
			testnet.Must(t, reconcile(k))
			kernel.log, kernel.fail = nil, map[string]error{tt.fail: broken}
			k.desired.SetPeers(tt.then)
			if err := reconcile(k); err == nil || !strings.Contains(err.Error(), "broken") {
				t.Errorf("got %v", err)
			}
			if got, want := kernel.changes(), withMACs(tt.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			kernel.fail = nil
			testnet.Must(t, reconcile(k)) // no event: it was not forgotten
			same, fresh := fakeNode(k.cfg.Backend)
			fresh.next = kernel.next - 1
			same.desired.SetPeers(tt.then)
			testnet.Must(t, reconcile(same))
			if got, want := kernel.has.text(), fresh.has.text(); got != want {
				t.Errorf("in the end\n%s\nwant\n%s", got, want)
			}
		})
	}
}

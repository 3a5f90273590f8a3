package ledger

import (
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func TestSelfBinds(t *testing.T) {
	t.Parallel()
	const dir = "/var/lib/brink/agent/kubelet"
	root := "46 1 254:0 / / rw - ext4 /dev/vda rw\n"
	for _, c := range []struct {
		name, table string
		want        int
	}{
		{"bound on itself", root + "72 46 254:0 /var/lib/brink/agent/kubelet " + dir + " rw shared:4 - ext4 /dev/vda rw\n", 1},
		{"on a disk of its own for /var", root + "50 46 254:1 / /var rw - ext4 /dev/vdb rw\n" + "72 50 254:1 /lib/brink/agent/kubelet " + dir + " rw shared:4 - ext4 /dev/vdb rw\n", 1},
		{"below a directory that is bound", root + "50 46 254:0 /mnt/big/lib /var/lib rw - ext4 /dev/vda rw\n" + "72 50 254:0 /mnt/big/lib/brink/agent/kubelet " + dir + " rw shared:4 - ext4 /dev/vda rw\n", 1},
		{"on a subvolume", root + "50 46 0:33 /@var /var rw - btrfs /dev/vdb rw\n" + "72 50 0:33 /@var/lib/brink/agent/kubelet " + dir + " rw shared:4 - btrfs /dev/vdb rw\n", 1},
		{"twice", root + "72 46 254:0 " + dir + " " + dir + " rw - ext4 /dev/vda rw\n" + "73 72 254:0 " + dir + " " + dir + " rw - ext4 /dev/vda rw\n", 2},
		{"a disk of the user's", root + "72 46 254:2 / " + dir + " rw shared:4 - ext4 /dev/vdc rw\n", 0},
		{"another disk's directory of the same name", root + "72 46 254:2 " + dir + " " + dir + " rw shared:4 - ext4 /dev/vdc rw\n", 0},
		{"another directory bound there", root + "72 46 254:0 /srv/big " + dir + " rw shared:4 - ext4 /dev/vda rw\n", 0},
		{"elsewhere", root + "72 46 254:0 /x /x rw - ext4 /dev/vda rw\n", 0},
	} {
		table, err := mountinfo.GetMountsFromReader(strings.NewReader(c.table), nil)
		if got := SelfBinds(table, dir); err != nil || got != c.want {
			t.Errorf("%s: %d (%v), want %d", c.name, got, err, c.want)
		}
	}
}

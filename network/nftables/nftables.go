// Package nftables holds what all users of nftables in brink share: opening, listing and
// removing tables, whether rules have changed, and whether a table is still the one that
// was made.
//
// Changes by others are noticed by the ruleset's generation number, which the kernel
// raises at each nftables commit: asking for it is one netlink round trip of
// microseconds, so it is asked often, and nft (milliseconds of CPU) is started only
// when the number moved. The kernel also sends notifications, one for every element that
// a change touches. A filter in the kernel lets only the one that ends a transaction
// through. Then the tables are compared with those of the last check: a "flush ruleset",
// as by a firewall that starts or reloads, removes them, and they are made anew with
// other numbers.
package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"
)

// Open returns access to a table by the program nft.
func Open(family knftables.Family, name string) (knftables.Interface, error) {
	nft, err := knftables.New(family, name)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("the program nft is not on this host: install the package nftables")
	}
	if err != nil {
		return nil, fmt.Errorf("using nftables: %s", OneLine(err))
	}
	return nft, nil
}

// OneLine returns in one line the text of an error that quotes what nft printed: nft
// quotes a mistake and underlines it on further lines.
func OneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// RemoveTable removes a table with all that is in it. A table that does not exist is no
// error and needs no program nft.
func RemoveTable(ctx context.Context, family knftables.Family, name string) error {
	if handle, err := TableHandle(string(family), name); err == nil && handle == 0 {
		return nil
	}
	nft, err := Open(family, name)
	if err != nil {
		return fmt.Errorf("removing nftables table %s %s: %w", family, name, err)
	}
	tx := nft.NewTransaction()
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil && !knftables.IsNotFound(err) {
		return fmt.Errorf("removing nftables table %s %s: %s", family, name, OneLine(err))
	}
	return nil
}

// attributes yields the type and value of each netlink attribute in b.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		attrs, _ := nl.ParseRouteAttr(b)
		for _, a := range attrs {
			if !yield(a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), a.Value) {
				return
			}
		}
	}
}

// Generation asks the kernel for the number that it raises with every change of any
// nftables rule in this network namespace.
func Generation() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: unix.NFNETLINK_V0})
	replies, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("asking the kernel for the nftables generation: %w", err)
	}
	for _, reply := range replies {
		for t, v := range attributes(reply[min(nl.SizeofNfgenmsg, len(reply)):]) {
			if t == unix.NFTA_GEN_ID && len(v) == 4 {
				return binary.BigEndian.Uint32(v), nil
			}
		}
	}
	return 0, errors.New("asking the kernel for the nftables generation: no answer")
}

// nftFamilies are nftables' families by the names that nft has for them (NFPROTO_* of
// linux/netfilter.h).
var nftFamilies = map[string]uint8{"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}

func nftRequest(kind, flags int, family string) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: nftFamilies[family], Version: unix.NFNETLINK_V0})
	return req
}

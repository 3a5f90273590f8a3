package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h.
const nftaTableHandle = 4

// TableHandle returns the number of an nftables table, which no other table of this
// network namespace ever gets, and 0 when there is no table of this name.
func TableHandle(family, name string) (uint64, error) {
	var handle uint64
	req := nftRequest(unix.NFT_MSG_GETTABLE, 0, family)
	req.AddData(nl.NewRtAttr(unix.NFTA_TABLE_NAME, nl.ZeroTerminated(name)))
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(b []byte) bool {
		for t, v := range attributes(b[min(nl.SizeofNfgenmsg, len(b)):]) {
			if t == nftaTableHandle && len(v) == 8 {
				handle = binary.BigEndian.Uint64(v)
			}
		}
		return true
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking for nftables table %s %s: %w", family, name, err)
	}
	return handle, nil
}

// Tables returns all tables of this network namespace, each as "family name".
func Tables() ([]string, error) {
	families := map[uint8]string{}
	for name, number := range nftFamilies {
		families[number] = name
	}
	return dump(unix.NFT_MSG_GETTABLE, "", func(b []byte) (string, bool) {
		for t, v := range attributes(b[min(nl.SizeofNfgenmsg, len(b)):]) {
			if t == unix.NFTA_TABLE_NAME {
				return families[b[0]] + " " + unix.ByteSliceToString(v), true
			}
		}
		return "", false
	})
}

// dump asks for all objects of a kind in a family, "" for all families, and returns the
// texts that text makes of the answers. It asks again when something came or went during
// the answer.
func dump(kind int, family string, text func([]byte) (string, bool)) (list []string, err error) {
	for range 10 {
		list = nil
		err = nftRequest(kind, unix.NLM_F_DUMP, family).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(b []byte) bool {
			if one, ok := text(b); ok {
				list = append(list, one)
			}
			return true
		})
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing nftables objects: %w", err)
	}
	return list, nil
}

// TableShape is what differs when somebody has made an nftables table anew, or has
// changed it where packets enter it.
type TableShape struct {
	// Handle is the table's number, which no other table ever gets; 0 without a table.
	Handle uint64
	// Hooked are the chains that the kernel calls, with the number of rules in each, as a
	// text that can be compared.
	Hooked string
}

// InspectTable returns the shape of a table of the family "ip", "ip6" or "inet", and the
// zero value when there is no such table.
func InspectTable(family, name string) (TableShape, error) {
	handle, err := TableHandle(family, name)
	if err != nil || handle == 0 {
		return TableShape{}, err
	}
	chains, err := dump(unix.NFT_MSG_GETCHAIN, family, func(b []byte) (string, bool) {
		c := parseChain(b)
		return fmt.Sprintf("%s: %d", c.name, c.uses), c.hooked && c.table == name
	})
	if err != nil {
		return TableShape{}, fmt.Errorf("looking at the chains of nftables table %s %s: %w", family, name, err)
	}
	slices.Sort(chains)
	return TableShape{handle, strings.Join(chains, ", ")}, nil
}

// chainMsg is what matters of a chain.
type chainMsg struct {
	table, name string
	uses        uint32 // rules in it and jumps to it
	hooked      bool
}

// parseChain reads what follows the netlink header of NFT_MSG_NEWCHAIN.
func parseChain(b []byte) (c chainMsg) {
	for t, v := range attributes(b[min(nl.SizeofNfgenmsg, len(b)):]) {
		switch {
		case t == unix.NFTA_CHAIN_TABLE:
			c.table = unix.ByteSliceToString(v)
		case t == unix.NFTA_CHAIN_NAME:
			c.name = unix.ByteSliceToString(v)
		case t == unix.NFTA_CHAIN_USE && len(v) == 4:
			c.uses = binary.BigEndian.Uint32(v)
		case t == unix.NFTA_CHAIN_HOOK:
			c.hooked = true
		}
	}
	return c
}

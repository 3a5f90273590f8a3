package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftaTableHandle is NFTA_TABLE_HANDLE of linux/netfilter/nf_tables.h.
const nftaTableHandle = 4

// nftFamilies are nftables' families by the names that nft has for them
// (linux/netfilter.h).
var nftFamilies = map[string]uint8{"inet": 1, "ip": unix.AF_INET, "ip6": unix.AF_INET6}

// WatchRules calls changed after each transaction that changes nftables rules in the
// network namespace of the calling thread, until ctx ends. It says that there was
// one, not which. One message a transaction wakes this process, whatever is in it:
// the kernel's filter on the socket leaves the others there. Where the kernel refuses,
// as in some containers, nothing is called and the error says so.
func WatchRules(ctx context.Context, changed func()) error {
	socket, err := subscribeRules()
	if err != nil {
		return fmt.Errorf("subscribing to changes of nftables rules: %w", err)
	}
	context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		buffer := make([]byte, 4<<10) // a message has less than a hundred bytes
		for {
			_, err := socket.Read(buffer)
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil && !errors.Is(err, unix.ENOBUFS): // more came than fits: something came
				slog.Warn("changes of nftables rules are noticed later from now on", "component", componentName, "error", err)
				return
			}
			changed()
		}
	}()
	return nil
}

func subscribeRules() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err = keepGenerations(fd); err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nfnetlink"), nil
}

// keepGenerations drops all messages but those of a new generation, by which the
// kernel ends each transaction. The type stands 4 bytes after the start in the
// machine's order; the filter reads it as if it were in the network's.
func keepGenerations(fd int) error {
	kind := make([]byte, 2)
	native.PutUint16(kind, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(binary.BigEndian.Uint16(kind))},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// tableHandle is the number of an nftables table, which no other table of this
// network namespace ever gets; 0 when there is none of this name.
func tableHandle(family, name string) (uint64, error) {
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

// TableShape tells whether an nftables table is the one of before.
type TableShape struct {
	// Handle is the table's number, which no other table ever gets; 0 without a table.
	Handle uint64
	// Hooked are the chains that hang on the kernel's hooks, with the number of rules
	// in each, as a text that can be compared.
	Hooked string
}

// LookAtTable finds the shape of a table of the family "ip", "ip6" or "inet", which is
// none of its own when there is no such table.
func LookAtTable(family, name string) (TableShape, error) {
	handle, err := tableHandle(family, name)
	if err != nil || handle == 0 {
		return TableShape{}, err
	}
	var chains []string
	for range 10 {
		chains = nil
		err = nftRequest(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, family).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(b []byte) bool {
			if c := parseChain(b); c.hooked && c.table == name {
				chains = append(chains, fmt.Sprintf("%s: %d", c.name, c.uses))
			}
			return true
		})
		if !interrupted(err) {
			break
		}
	}
	if err != nil {
		return TableShape{}, fmt.Errorf("listing chains of nftables table %s %s: %w", family, name, err)
	}
	slices.Sort(chains)
	return TableShape{handle, strings.Join(chains, ", ")}, nil
}

func nftRequest(kind, flags int, family string) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: nftFamilies[family], Version: unix.NFNETLINK_V0})
	return req
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

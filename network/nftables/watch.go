package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"brink/internal/lifecycle"
)

// Watch calls changed after each transaction that changes nftables rules in the network
// namespace of the calling thread, until ctx ends. It does not say which rules. One
// message a transaction wakes this process, whatever is in it: a filter in the kernel
// drops the others. Where the kernel refuses, as in some containers, Watch returns an
// error and never calls changed.
func Watch(ctx context.Context, changed func()) error {
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
			case err != nil && !errors.Is(err, unix.ENOBUFS): // some were lost
				lifecycle.Logger(ctx).Warn("changes of nftables rules are noticed later from now on", "error", err)
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
	if err = passOnlyGenerations(fd); err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nfnetlink"), nil
}

// passOnlyGenerations drops all messages but those of a new generation, by which the
// kernel ends each transaction. The type stands 4 bytes after the start in the
// machine's order; the filter reads it as if it were in the network's.
func passOnlyGenerations(fd int) error {
	kind := make([]byte, 2)
	binary.NativeEndian.PutUint16(kind, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(binary.BigEndian.Uint16(kind))},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

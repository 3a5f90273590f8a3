package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"brink/internal/nodeaddr"
)

func address(ip string, gone bool) []nodeaddr.Address {
	return []nodeaddr.Address{{IP: netip.MustParseAddr(ip), Link: "eth0", Gone: gone}}
}

func TestMovedServer(t *testing.T) {
	t.Parallel()
	last := address("192.0.2.7", true)
	for _, tt := range []struct {
		name  string
		begun []nodeaddr.Address
		then  []nodeaddr.Address
		want  string // of the error, "" for none
	}{
		{"nothing changes", address("192.0.2.7", false), address("192.0.2.7", false), ""},
		{"DHCP gives another address", address("192.0.2.7", false), address("192.0.2.9", false), "192.0.2.9 of eth0 now and was started with 192.0.2.7 of eth0"},
		{"the cable is out", address("192.0.2.7", false), address("192.0.2.7", true), ""},
		{"the user gave an address", nil, address("192.0.2.9", false), ""},
		{"it never comes", last, last, ""},
		{"it comes as before", last, address("192.0.2.7", false), ""},
		{"it comes with another address", last, address("192.0.2.9", false), "192.0.2.9 of eth0 now and was started with 192.0.2.7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				find := func() ([]nodeaddr.Address, error) {
					if time.Since(begun) < time.Minute {
						return nil, errors.New("nothing yet")
					}
					return tt.then, nil
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				ready := false
				err := movedServer(tt.begun, find, addressInterval).Run(ctx, func() { ready = true })
				if !ready {
					t.Error("was not ready")
				}
				if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				if ended := time.Since(begun); err != nil && ended > 2*time.Minute {
					t.Errorf("ended after %s", ended)
				}
			})
		})
	}
}

package node

import (
	"fmt"
	"net"
)

// notifySystemd sends a state to systemd, by sd_notify(3)'s datagram protocol.
// Without a socket there is no systemd to tell.
func notifySystemd(socket, state string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", socket, err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

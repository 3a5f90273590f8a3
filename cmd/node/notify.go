package node

import (
	"fmt"
	"net"
)

// notifySystemd sends a state to systemd by the datagram protocol of sd_notify(3).
// Without a socket, systemd does not wait, and nothing is sent. The library that the
// kubelet uses for this cannot be used: it reads the socket from the environment, and there
// the socket has been removed so that the kubelet does not find it.
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

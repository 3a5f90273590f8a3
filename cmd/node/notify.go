package node

import (
	"fmt"
	"net"
)

// notifySystemd sends a state to systemd by the datagram protocol of sd_notify(3).
// Without a socket there is no systemd. The library that the kubelet uses for it reads
// the socket from the environment, out of which it is taken before the kubelet starts.
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

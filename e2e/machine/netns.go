package machine

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Netns is the path of a network namespace.
type Netns string

// NetnsOf is the network namespace of a process.
func NetnsOf(pid int) Netns { return Netns(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// Do runs f on a thread in the namespace. A thread that cannot be brought back
// stays locked, so that the runtime ends it with its goroutine.
func (n Netns) Do(f func() error) error {
	result := make(chan error, 1)
	go func() { result <- n.doLocked(f) }()
	return <-result
}

func (n Netns) doLocked(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer func() { _ = home.Close() }()
	there, err := os.Open(string(n))
	if err != nil {
		return err
	}
	defer func() { _ = there.Close() }()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering %s: %w", n, err)
	}
	err = f()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// Dial opens a connection from inside the namespace. The address must be an IP
// literal: names would be asked for by another thread, outside.
func (n Netns) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen takes a TCP port inside the namespace.
func (n Netns) Listen(addr string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	return l, err
}

// Links are the names of the namespace's network links.
func (n Netns) Links() ([]string, error) {
	var names []string
	err := n.Do(func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names = append(names, l.Name)
		}
		return err
	})
	return names, err
}

// Client opens a connection for every request: a kept one would stay with the
// backend that a service once chose for it.
func (n Netns) Client() *http.Client {
	return &http.Client{Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}}
}

// Get is the body of url, asked for from inside the namespace.
func (n Netns) Get(url string) (string, error) {
	resp, err := n.Client().Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return string(body), nil
}

// AskUDP sends one datagram and returns the answer.
func (n Netns) AskUDP(addr string) (string, error) {
	conn, err := n.Dial(context.Background(), "udp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	size, err := conn.Read(buf)
	return string(buf[:size]), err
}

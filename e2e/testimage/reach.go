package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// payload is many packets of any MTU.
const payload = 1 << 20

// reach asks servers at all addresses in every way. One that begins with ~ may see
// another source address than ours. One that begins with ! is our own node, whose
// answer over UDP has the bridge's address unless the server minds where it was
// asked, and ours does not.
func reach(addresses []string) error {
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	errs := make([]error, len(addresses))
	var all sync.WaitGroup
	for i, address := range addresses {
		all.Go(func() {
			address, isNode := strings.CutPrefix(address, "!")
			address, anySource := strings.CutPrefix(address, "~")
			from := own
			if anySource || isNode {
				from = nil
			}
			if err := reachOne(address, from, !isNode); err != nil {
				errs[i] = fmt.Errorf("%s: %w", address, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

func ownAddresses() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	var out []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out, err
}

// reachOne wants to be seen with one of the addresses from, if there are any.
func reachOne(address string, from []netip.Addr, udp bool) error {
	client := newClient()
	url := "http://" + net.JoinHostPort(address, "8080")
	seen, err := get(client, url+"/clientip")
	if err != nil {
		return err
	}
	if source, err := netip.ParseAddr(seen); from != nil && (err != nil || !slices.Contains(from, source)) {
		return fmt.Errorf("it sees %s, we are %v", seen, from)
	}
	err = errors.Join(echo(client, url+"/echo"), stream(address), ping(address))
	if udp {
		err = errors.Join(err, datagram(address))
	}
	return err
}

// echo sends and gets back the same bytes.
func echo(client *http.Client, url string) error {
	sent := make([]byte, payload)
	_, _ = rand.Read(sent)
	resp, err := client.Post(url, "application/octet-stream", bytes.NewReader(sent))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	back, err := io.ReadAll(resp.Body)
	if err == nil && !bytes.Equal(sent, back) {
		err = fmt.Errorf("%d bytes came back as %d others", len(sent), len(back))
	}
	return err
}

// datagram asks by UDP, and has datagrams of several packets sent back.
func datagram(address string) error {
	conn, err := net.Dial("udp", net.JoinHostPort(address, "8081"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := exchange(conn, []byte("?")); err != nil {
		return fmt.Errorf("UDP: %w", err)
	}
	large := make([]byte, 8000)
	_, _ = rand.Read(large)
	back, err := exchange(conn, large)
	if err == nil && !bytes.Equal(back, large) {
		err = fmt.Errorf("they came back as %d others", len(back))
	}
	if err != nil {
		return fmt.Errorf("UDP, %d bytes: %w", len(large), err)
	}
	return nil
}

// exchange tries three times: UDP may be lost.
func exchange(conn net.Conn, question []byte) (answer []byte, err error) {
	buf := make([]byte, 1<<16)
	for range 3 {
		if _, err = conn.Write(question); err != nil {
			continue
		}
		_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		var n int
		if n, err = conn.Read(buf); err == nil {
			return buf[:n], nil
		}
	}
	return nil, err
}

func stream(address string) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "8082"), 5*time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) == 0 {
		err = errors.New("an empty answer over TCP")
	}
	return err
}

func ping(address string) error {
	if out, err := exec.Command("ping", "-c", "3", "-A", "-W", "5", address).CombinedOutput(); err != nil {
		return fmt.Errorf("ping: %w: %s", err, out)
	}
	return nil
}

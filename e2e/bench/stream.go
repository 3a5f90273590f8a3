package main

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"brink/e2e/machine"
)

// pod is a place from which and to which is measured.
type pod struct {
	pid int // of a process in its network namespace
	ip  string
}

// stream is a TCP connection between two pods, both of whose ends are held here:
// a socket stays in the network namespace in which it was made. The program at
// both ends is thereby the same whatever network is between them.
//
// The ends are blocking file descriptors, used by threads of their own: Go's
// poller would cost more than what is measured.
type stream struct{ from, to int }

func openStream(from, to pod) (stream, error) {
	var listener net.Listener
	err := machine.NetnsOf(to.pid).Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(to.ip, "0"))
		return err
	})
	if err != nil {
		return stream{}, err
	}
	defer listener.Close()
	var near net.Conn
	err = machine.NetnsOf(from.pid).Do(func() (err error) {
		near, err = net.DialTimeout("tcp", listener.Addr().String(), time.Second)
		return err
	})
	if err != nil {
		return stream{}, err
	}
	far, err := listener.Accept()
	if err != nil {
		return stream{}, err
	}
	s := stream{from: -1, to: -1}
	if s.from, err = blocking(near); err == nil {
		s.to, err = blocking(far)
	}
	if err != nil {
		s.close()
	}
	return s, err
}

// awaitStream tries until the pods can reach each other.
func awaitStream(ctx context.Context, from, to pod) (stream, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		s, err := openStream(from, to)
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("connecting pods: %w", err)
		case <-time.After(retry):
		}
	}
}

// blocking takes the descriptor out of a connection.
func blocking(conn net.Conn) (int, error) {
	defer conn.Close()
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		return -1, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.SetNonblock(fd, false)
}

func (s stream) close() {
	_ = unix.Close(s.from)
	_ = unix.Close(s.to)
}

// cutShort ends reads and writes that wait.
func (s stream) cutShort() {
	_ = unix.Shutdown(s.from, unix.SHUT_RDWR)
	_ = unix.Shutdown(s.to, unix.SHUT_RDWR)
}

// onCPU runs f on a thread of its own, on the n-th processor of those that this
// program may use. Where the two ends run is the kernel's choice otherwise, and
// makes more difference than any network.
func onCPU(n int, f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never given back: the thread ends
		var all, one unix.CPUSet
		if unix.SchedGetaffinity(0, &all) == nil {
			for cpu, seen := 0, 0; cpu < 1024; cpu++ {
				if !all.IsSet(cpu) {
					continue
				}
				if seen == n {
					one.Set(cpu)
					_ = unix.SchedSetaffinity(0, &one)
				}
				seen++
			}
		}
		f()
	}()
	return done
}

const (
	// warmUp is what a stream gets before it counts: windows grow.
	warmUp = 500 * time.Millisecond
	// pieceSize is what is written and read at a time.
	pieceSize = 128 << 10
)

// throughput is how many bytes a second arrive.
func (s stream) throughput(d time.Duration) float64 {
	var arrived atomic.Int64
	writer := onCPU(0, func() {
		piece := make([]byte, pieceSize)
		for {
			if _, err := unix.Write(s.from, piece); err != nil && err != unix.EINTR {
				return
			}
		}
	})
	reader := onCPU(1, func() {
		piece := make([]byte, pieceSize)
		for {
			n, err := unix.Read(s.to, piece)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			arrived.Add(int64(n))
		}
	})
	time.Sleep(warmUp)
	before, begun := arrived.Load(), time.Now()
	time.Sleep(d)
	bytes, took := arrived.Load()-before, time.Since(begun)
	s.cutShort()
	<-writer
	<-reader
	return float64(bytes) / took.Seconds()
}

// roundTrip is the median time of a byte there and back.
func (s stream) roundTrip(d time.Duration) (time.Duration, error) {
	echo := onCPU(1, func() {
		b := make([]byte, 1)
		for readByte(s.to, b) && writeByte(s.to, b) {
		}
	})
	var times latencies
	asker := onCPU(0, func() {
		b := make([]byte, 1)
		for begun := time.Now(); time.Since(begun) < d; {
			asked := time.Now()
			if !writeByte(s.from, b) || !readByte(s.from, b) {
				return
			}
			times = append(times, time.Since(asked))
		}
	})
	<-asker
	s.cutShort()
	<-echo
	if len(times) == 0 {
		return 0, fmt.Errorf("no byte came back within %v", d)
	}
	slices.Sort(times)
	return times.percentile(50), nil
}

func readByte(fd int, b []byte) bool {
	n, err := unix.Read(fd, b)
	for err == unix.EINTR {
		n, err = unix.Read(fd, b)
	}
	return n == 1 && err == nil
}

func writeByte(fd int, b []byte) bool {
	n, err := unix.Write(fd, b)
	for err == unix.EINTR {
		n, err = unix.Write(fd, b)
	}
	return n == 1 && err == nil
}

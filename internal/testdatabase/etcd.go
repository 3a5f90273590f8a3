package testdatabase

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// initEtcd builds the program, which takes a minute when it was never done here,
// and chooses ports: it does not listen on sockets alone.
func (s *Server) initEtcd() error {
	module, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	build := exec.Command("go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", s.path("etcd"), "go.etcd.io/etcd/server/v3")
	build.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(module))), "internal", "testdatabase", "etcd")
	build.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building etcd: %w\n%s", err, bytes.TrimSpace(out))
	}
	if s.Listen == "" {
		if s.Listen, err = freeAddress(); err != nil {
			return err
		}
	}
	if s.peers, err = freeAddress(); err != nil {
		return err
	}
	return s.handOver()
}

// freeAddress is one of loopback that nobody listens on now.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func (s *Server) etcdArgv() []string {
	client, peers := "http://"+s.Listen, "http://"+s.peers
	return []string{
		s.path("etcd"), "--data-dir=" + s.path("data"), "--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers,
	}
}

package datastore

import (
	"strings"
	"testing"
)

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  Config
		want []string // parts of the error; none: valid
	}{
		{"sqlite", Config{Dir: "/a", SocketDir: "/b"}, nil},
		{"postgres", Config{Dir: "/a", SocketDir: "/b", Endpoint: "postgres://u:p@h/d"}, nil},
		{"etcd", Config{Dir: "/a", SocketDir: "/b", Endpoint: "https://1:2379,https://2:2379"}, nil},
		{"empty", Config{}, []string{"datastore directory", "socket directory"}},
		{"nats", Config{Dir: "/a", SocketDir: "/b", Endpoint: "nats://secret@h"}, []string{`unknown scheme "nats"`}},
		{"no scheme", Config{Dir: "/a", SocketDir: "/b", Endpoint: "secret"}, []string{"scheme://address"}},
		{"long socket", Config{Dir: "/a", SocketDir: "/" + strings.Repeat("x", 100)}, []string{"too long"}},
		{"half a certificate", Config{Dir: "/a", SocketDir: "/b", CertFile: "/c"}, []string{"both or neither"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.cfg.Validate()
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("got %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not contain %q", err, part)
				}
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q repeats the endpoint", err)
			}
		})
	}
}

func TestExternalEndpoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ endpoint, durable string }{
		{"https://10.0.0.1:2379,https://10.0.0.2:2379", "https://10.0.0.1:2379,https://10.0.0.2:2379"},
		{"postgres://db/kine", "unix:///run/x/durable.sock"},
	} {
		s := &Store{cfg: Config{SocketDir: "/run/x", Endpoint: c.endpoint}}
		s.engine = s.newEngine()
		if got := s.DurableEndpoint(); got != c.durable {
			t.Errorf("%s: durable at %s, want %s", c.endpoint, got, c.durable)
		}
		if got := s.VolatileEndpoint(); got != c.durable {
			t.Errorf("%s: volatile at %s, want it shared at %s", c.endpoint, got, c.durable)
		}
	}
}

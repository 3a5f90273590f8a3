package agent

import (
	"path/filepath"
	"testing"

	"brink/internal/testtree"
)

func TestHasReachableServer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		text string
		want bool
	}{
		{"empty", "", false},
		{"one server", "nameserver 192.0.2.53\n", true},
		{"no newline at the end", "search example.org\nnameserver 192.0.2.53", true},
		{"IPv6", "nameserver 2001:db8::53\n", true},
		{"link-local with a zone", "nameserver fe80::1%eth0\n", true},
		{"systemd-resolved's stub", "# by resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\n", false},
		{"dnsmasq on this host", "nameserver 127.0.0.1\nnameserver ::1\n", false},
		{"stub and a real one", "nameserver 127.0.0.53\nnameserver 192.0.2.53\n", true},
		{"commented out", "#nameserver 192.0.2.53\n; nameserver 192.0.2.53\n", false},
		{"tabs and spaces", "  nameserver\t 192.0.2.53 \n", true},
		{"a name is no address", "nameserver dns.example.org\n", false},
		{"no address", "nameserver\n", false},
		{"another word", "nameservers 192.0.2.53\n", false},
	}
	for _, tt := range tests {
		if got := hasReachableServer(tt.text); got != tt.want {
			t.Errorf("%s: got %t", tt.name, got)
		}
	}
}

func TestResolvConf(t *testing.T) {
	t.Parallel()
	const stub, real = "nameserver 127.0.0.53\n", "nameserver 192.0.2.53\n"
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"a real server", map[string]string{"host": real, "resolved": real}, "host"},
		{"systemd-resolved's stub", map[string]string{"host": stub, "resolved": real}, "resolved"},
		{"systemd-resolved before the network", map[string]string{"host": stub, "resolved": "# none yet\n"}, "resolved"},
		{"another stub", map[string]string{"host": stub}, "host"},
		{"no file", nil, "host"},
	}
	for _, tt := range tests {
		dir := testtree.Make(t, tt.files)
		if got := resolvConf(filepath.Join(dir, "host"), filepath.Join(dir, "resolved")); got != filepath.Join(dir, tt.want) {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

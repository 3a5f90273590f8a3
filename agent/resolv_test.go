package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brink/internal/testgoroutines"
	"brink/internal/testtree"
)

func TestOnlyReachable(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"empty", "", ""},
		{"one server", "nameserver 192.0.2.53\n", "nameserver 192.0.2.53\n"},
		{"no newline at the end", "search example.org\nnameserver 192.0.2.53", "search example.org\nnameserver 192.0.2.53"},
		{"IPv6", "nameserver 2001:db8::53\n", "nameserver 2001:db8::53\n"},
		{"link-local with a zone", "nameserver fe80::1%eth0\nnameserver 192.0.2.53\n", "nameserver 192.0.2.53\n"},
		{"link-local of a cloud", "nameserver 169.254.169.253\n", "nameserver 169.254.169.253\n"},
		{"systemd-resolved's stub", "# by resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\n", "# by resolved\noptions edns0 trust-ad\n"},
		{"dnsmasq on this host", "nameserver 127.0.0.1\nnameserver ::1\n", ""},
		{"a mapped loopback", "nameserver ::ffff:127.0.0.1\n", ""},
		{"this host", "nameserver 0.0.0.0\nnameserver ::\n", ""},
		{"a local one first", "nameserver 127.0.0.1\nnameserver 192.0.2.53\n", "nameserver 192.0.2.53\n"},
		{"a local one in between", "nameserver 192.0.2.53\n\tnameserver  127.1.2.3  # cache\nnameserver 192.0.2.54\n", "nameserver 192.0.2.53\nnameserver 192.0.2.54\n"},
		{"commented out", "#nameserver 127.0.0.1\n; nameserver 127.0.0.1\n", "#nameserver 127.0.0.1\n; nameserver 127.0.0.1\n"},
		{"a name is no address", "nameserver dns.example.org\n", "nameserver dns.example.org\n"},
		{"no address", "nameserver\n", "nameserver\n"},
		{"another word", "nameservers 127.0.0.1\n", "nameservers 127.0.0.1\n"},
	}
	for _, tt := range tests {
		if got := onlyReachable(tt.text); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestResolvText(t *testing.T) {
	t.Parallel()
	const stub, real = "nameserver 127.0.0.53\n", "nameserver 192.0.2.53\n"
	tests := []struct {
		name   string
		files  map[string]string
		want   string
		logged bool
	}{
		{"a real server", map[string]string{"host": real, "resolved": "nameserver 192.0.2.54\n"}, real, false},
		{"systemd-resolved's stub", map[string]string{"host": stub, "resolved": real}, real, false},
		{"systemd-resolved and a local one", map[string]string{"host": stub, "resolved": "nameserver ::1\n" + real}, real, false},
		{"systemd-resolved before the network", map[string]string{"host": stub, "resolved": "# none yet\n"}, "# none yet\n", true},
		{"another stub", map[string]string{"host": "search a.example\n" + stub}, "search a.example\n", true},
		{"none yet", map[string]string{"host": "# none yet\n"}, "# none yet\n", false},
		{"no file", nil, "", false},
	}
	for _, tt := range tests {
		dir := testtree.Make(t, tt.files)
		r := &resolv{host: filepath.Join(dir, "host"), resolved: filepath.Join(dir, "resolved"), file: filepath.Join(dir, "ours")}
		if err := r.write(t.Context()); err != nil {
			t.Fatal(err)
		}
		logged := r.logged.Cleared(noServerLeft)
		if got := readText(r.file); got != tt.want || logged != tt.logged {
			t.Errorf("%s: got %q, logged %t, want %q, %t", tt.name, got, logged, tt.want, tt.logged)
		}
	}
}

// TestResolvFollows the host's file, through whatever link it is and however it is
// changed.
func TestResolvFollows(t *testing.T) {
	t.Parallel()
	dir := testtree.Make(t, map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1\n", "run/a/real.conf": "nameserver 192.0.2.3\nnameserver 127.0.0.1\n"})
	etc := filepath.Join(dir, "etc", "resolv.conf")
	r := &resolv{host: etc, resolved: filepath.Join(dir, "systemd", "resolv.conf"), file: filepath.Join(dir, "ours")}
	if err := r.write(t.Context()); err != nil {
		t.Fatal(err)
	}
	go r.follow(t.Context())
	step := func(what, want string, do func() error) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second) // before the tick
		for {
			if err := do(); err != nil { // again: the watch may have begun a moment later
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			if got := readText(r.file); got == want {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("%s: got %q, want %q", what, got, want)
			}
		}
	}
	replace := func(path, text string) func() error {
		return func() error {
			if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}
	}
	step("written", "nameserver 192.0.2.2\n", func() error { return os.WriteFile(etc, []byte("nameserver ::1\nnameserver 192.0.2.2\n"), 0o644) })
	step("replaced", "nameserver 192.0.2.4\n", replace(etc, "nameserver 192.0.2.4\n"))
	target := filepath.Join(dir, "run", "a", "real.conf")
	step("made a link", "nameserver 192.0.2.3\n", func() error {
		if err := os.Symlink(target, etc+".new"); err != nil && !strings.Contains(err.Error(), "exists") {
			return err
		}
		return os.Rename(etc+".new", etc)
	})
	step("the target of the link", "nameserver 192.0.2.5\n", replace(target, "nameserver 192.0.2.5\n"))
	step("removed", "", func() error { _ = os.Remove(etc); return nil })
}

// TestResolvEnds with its context.
func TestResolvEnds(t *testing.T) {
	t.Parallel()
	dir := testtree.Make(t, map[string]string{"etc/resolv.conf": ""})
	r := &resolv{host: filepath.Join(dir, "etc", "resolv.conf"), resolved: filepath.Join(dir, "none"), file: filepath.Join(dir, "ours")}
	testgoroutines.WantNone(t, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		r.follow(ctx)
	})
}

// TestResolvWatchesNothingAfterItsEnd: the number of a closed descriptor is given to the
// next file that is opened, here to another instance of inotify. It is not parallel, so
// that no other test opens a file in between.
func TestResolvWatchesNothingAfterItsEnd(t *testing.T) {
	dir := testtree.Make(t, map[string]string{"etc/resolv.conf": ""})
	r := &resolv{host: filepath.Join(dir, "etc", "resolv.conf"), resolved: filepath.Join(dir, "none")}
	ours, err := newInotify()
	if err != nil {
		t.Fatal(err)
	}
	number := numberOf(t, ours)
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	others, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(others)
	if others != number {
		t.Fatalf("descriptor %d was closed, and the next one is %d: this test shows nothing", number, others)
	}
	r.watchFiles(ours)
	if err := os.WriteFile(r.host, []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(others, make([]byte, 4<<10)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("somebody else's instance has %d bytes of events: %v", n, err)
	}
}

// numberOf returns the descriptor of an open file, which stays non-blocking.
func numberOf(t *testing.T, f *os.File) (number int) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { number = int(fd) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return number
}

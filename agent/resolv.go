package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"brink/internal/atomicfile"
	"brink/internal/componentargs"
	"brink/internal/lifecycle"
	"brink/internal/once"
)

const (
	hostResolv = "/etc/resolv.conf"
	// systemdResolv is where systemd-resolved keeps the real name servers when
	// /etc/resolv.conf names only itself.
	systemdResolv = "/run/systemd/resolve/resolv.conf"
)

// resolvEvery is how often the host's name servers are read although no change of their
// file was noticed.
const resolvEvery = 30 * time.Second

// resolv maintains the file with the name servers of pods with dnsPolicy Default, which
// the kubelet reads for every pod. It is the host's file without the servers that a pod
// cannot reach. A resolver asks its servers one after the other, so an unreachable one
// costs every lookup a timeout, and the loopback in a pod is the pod itself.
type resolv struct {
	host, resolved string // the files of the host
	file           string // ours

	logged once.Reporter
}

func newResolv(file string) *resolv {
	return &resolv{host: hostResolv, resolved: systemdResolv, file: file}
}

// startResolv writes the file and has running follow the host's until ctx is done. A file
// that the user gives to the kubelet is used unchanged.
func (n *connected) startResolv(ctx context.Context, running *sync.WaitGroup) error {
	named := func(arg string) bool { return componentargs.Name(arg) == "resolv-conf" }
	if slices.ContainsFunc(n.cfg.KubeletArgs, named) {
		return nil
	}
	r := newResolv(n.cfg.Layout.ResolvConf())
	if err := r.write(ctx); err != nil {
		return err
	}
	running.Go(func() { r.follow(ctx) })
	return nil
}

const noServerLeft = "no name server in %s can be reached from pods, so those with dnsPolicy Default find no names: name one there that is not on this host's loopback"

// write writes the file unless it has this content already.
func (r *resolv) write(ctx context.Context) error {
	text := r.text()
	if err := atomicfile.Keep(r.file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing the name servers for pods: %w", err)
	}
	switch isLost := len(nameServers(text)) == 0 && len(nameServers(readText(r.host))) > 0; {
	case !isLost:
		r.logged.Cleared(noServerLeft)
	case r.logged.Changed(noServerLeft, r.host):
		lifecycle.Logger(ctx).Warn(fmt.Sprintf(noServerLeft, r.host))
	}
	return nil
}

// text returns the content of the file. The file of systemd-resolved is used even if it
// names no server yet, as before the network is up.
func (r *resolv) text() string {
	text := onlyReachable(readText(r.host))
	if len(nameServers(text)) == 0 {
		if resolved, err := os.ReadFile(r.resolved); err == nil {
			return onlyReachable(string(resolved))
		}
	}
	return text
}

// readText returns the content of a file, or "" where there is none.
func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// onlyReachable returns text without the servers that pods cannot reach.
func onlyReachable(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if server := nameServer(line); server == "" || isReachable(server) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// nameServers returns the name servers in text.
func nameServers(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if server := nameServer(line); server != "" {
			out = append(out, server)
		}
	}
	return out
}

// nameServer returns the address in a line of resolv.conf(5), or "" when it names none.
func nameServer(line string) string {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "nameserver" {
		return ""
	}
	if _, err := netip.ParseAddr(fields[1]); err != nil {
		return ""
	}
	return fields[1]
}

// isReachable reports whether a pod can reach a name server. A loopback address is the
// pod's own, as is the unspecified address, which means the same to a resolver. A
// link-local IPv6 address belongs to a link that the pod does not have. In IPv4 clouds
// route such addresses.
func isReachable(server string) bool {
	a := netip.MustParseAddr(server).Unmap()
	return !a.IsLoopback() && !a.IsUnspecified() && (a.Is4() || !a.IsLinkLocalUnicast())
}

// follow writes the file again when one of the host's changes, until ctx is done.
func (r *resolv) follow(ctx context.Context) {
	tick := time.NewTicker(resolvEvery)
	defer tick.Stop()
	changed := r.watch(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
		}
		if err := r.write(ctx); err == nil {
			r.logged.Cleared(r.file)
		} else if r.logged.Changed(r.file, err.Error()) {
			lifecycle.Logger(ctx).Warn(err.Error())
		}
	}
}

// watch returns a channel that gets changes of the host's files and of what they link to.
// It watches the directories, because such files are replaced, not written. Where inotify
// cannot be used the channel stays silent, and the tick of follow is left.
func (r *resolv) watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	inotify, err := newInotify()
	if err != nil {
		return changed
	}
	context.AfterFunc(ctx, func() { inotify.Close() })
	names := r.watchFiles(inotify)
	go func() {
		buffer := make([]byte, 64<<10)
		for {
			n, err := inotify.Read(buffer)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			if !slices.ContainsFunc(eventNames(buffer[:max(n, 0)]), func(name string) bool { return names[name] }) {
				continue
			}
			names = r.watchFiles(inotify) // it may be a link to another file now
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed
}

// newInotify opens an instance of inotify(7). Closing it ends a read.
func newInotify() (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// watchFiles watches the directories that the files are in now and returns the files'
// names. It adds nothing to an instance that is closed, whose descriptor may be somebody
// else's by then.
func (r *resolv) watchFiles(inotify *os.File) map[string]bool {
	names := map[string]bool{}
	descriptor, err := inotify.SyscallConn()
	if err != nil {
		return names
	}
	for _, path := range []string{r.host, r.resolved} {
		paths := []string{path}
		if target, err := filepath.EvalSymlinks(path); err == nil {
			paths = append(paths, target)
		}
		for _, path := range paths {
			names[filepath.Base(path)] = true
			_ = descriptor.Control(func(fd uintptr) {
				_, _ = unix.InotifyAddWatch(int(fd), filepath.Dir(path), unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_CREATE|unix.IN_DELETE)
			})
		}
	}
	return names
}

// eventNames returns the names in a sequence of struct inotify_event of inotify(7).
func eventNames(b []byte) []string {
	var names []string
	for len(b) >= unix.SizeofInotifyEvent {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b) {
			break
		}
		names = append(names, unix.ByteSliceToString(b[unix.SizeofInotifyEvent:size]))
		b = b[size:]
	}
	return names
}

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"brink/internal/layout"
)

// lan is the switch: a network namespace with a bridge, where the clients that
// are not on a node stand too.
type lan struct {
	holder *holder
	last   atomic.Uint32
}

const (
	lanPrefix = "172.31.250."
	// lanHost is the bridge's own address: the machines' router, and the
	// address that requests from outside a node come from.
	lanHost = lanPrefix + "1"
	// farPrefix is a second segment, of which the switch's namespace is the router
	// to the first.
	farPrefix, farHost = "172.31.251.", farPrefix + "1"
	// lanPrefix6 is the same network for clusters with IPv6.
	lanPrefix6 = "fd31:250::"
)

var sharedLAN = sync.OnceValues(newLAN)

// newLAN makes the switch. Its bridges have MAC addresses of their own: otherwise
// each had the lowest of its ports', and when the machine of that port went, what
// others had under way to the switch was lost until they asked for its address
// again, for ten seconds and more.
func newLAN() (*lan, error) {
	h, err := newHolder("unshare --net -- sh -ec", `
ip link set lo up
ip link add br0 address 02:00:00:00:fa:01 type bridge
ip address add `+lanHost+`/24 dev br0
ip address add `+lanPrefix6+`1/64 dev br0 nodad
ip link set br0 up
ip link add br1 address 02:00:00:00:fb:01 type bridge
ip address add `+farHost+`/24 dev br1
ip link set br1 up
echo 1 > /proc/sys/net/ipv4/ip_forward
echo ready
exec cat`, nil)
	if err != nil {
		return nil, fmt.Errorf("making the switch: %w", err)
	}
	return &lan{holder: h}, nil
}

func (l *lan) netns() netns { return l.holder.netns() }

// attach plugs the namespace of process pid into a segment of the switch.
func (l *lan) attach(pid int, bridge, prefix string) (netip.Addr, error) {
	number := l.last.Add(1)
	addr := netip.MustParseAddr(prefix + strconv.Itoa(int(number)+1))
	port := fmt.Sprintf("port%d", number)
	err := l.holder.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(pid))
	if err != nil {
		return addr, err
	}
	return addr, l.holder.run("ip", "link", "set", port, "master", bridge, "up")
}

// holder is a process that keeps namespaces alive. It ends when its standard
// input does, and so never outlives the tests.
type holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// newHolder starts a script that prints "ready" and then execs cat.
func newHolder(unshare, script string, env []string) (*holder, error) {
	argv := append(strings.Fields(unshare), script)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &holder{cmd: cmd, stdin: stdin}
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		h.close()
		return nil, fmt.Errorf("%s: %v: %s%s", unshare, cmd.ProcessState, line, stderr.String())
	}
	return h, nil
}

func (h *holder) pid() int { return h.cmd.Process.Pid }

func (h *holder) netns() netns { return netns(h.proc("ns/net")) }

func (h *holder) proc(rest string) string { return fmt.Sprintf("/proc/%d/%s", h.pid(), rest) }

// enter is the command in the holder's namespaces. nsenter becomes the command,
// so signals and the process id are the command's own.
func (h *holder) enter(ctx context.Context, argv ...string) *exec.Cmd {
	args := append([]string{"--target", strconv.Itoa(h.pid()), "--net", "--mount", "--uts", "--"}, argv...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

func (h *holder) run(argv ...string) error {
	out, err := h.enter(context.Background(), argv...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (h *holder) close() {
	_ = h.stdin.Close()
	_ = h.cmd.Wait()
}

// machine is a host as brink sees it: namespaces, an address, private system
// directories, and a name that is also its cgroup root.
type machine struct {
	holder *holder
	id     string
	// dir is below /tmp: unix sockets allow paths of 107 bytes only.
	dir string
	// data is brink's data directory: below dir, or the default.
	data string
	addr netip.Addr
	// far is a machine of the second segment.
	far bool
	// namespace is the mount namespace's name, such as mnt:[4026532281].
	namespace string
	// before is what there was before brink ran.
	before snapshot
}

// machineScript makes the mounts private and at its end shared again among
// themselves, as systemd leaves them: pods may ask for mount propagation.
// Directories in OVERLAID are the host's with the changes kept apart. Those in
// FRESH are empty: overlayfs does not work on itself, so containerd's own place
// must not be on one.
const machineScript = `
mount --make-rprivate /
for d in $OVERLAID; do
	[ -d /$d ] || continue
	mkdir -p $DIR/upper/$d $DIR/work/$d
	mount -t overlay overlay -o lowerdir=/$d,upperdir=$DIR/upper/$d,workdir=$DIR/work/$d /$d
done
for d in $FRESH; do
	mkdir -p $DIR/fresh/$d
	mount --bind $DIR/fresh/$d /$d
done
mkdir -p $DIR/log /var/log /var/lib /var/tmp
mount --bind $DIR/log /var/log
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/mount # of mount(8), as on every booted machine
mount --make-rshared /
rm -f /etc/resolv.conf
echo nameserver $ROUTER > /etc/resolv.conf
echo 127.0.0.1 localhost $NAME > /etc/hosts
echo $NAME > /etc/hostname
echo $NAME > /proc/sys/kernel/hostname
ip link set lo up
echo ready
exec cat`

// newMachine is a machine for a brink that keeps its data below the machine's
// directory.
func newMachine() (*machine, error) { return newMachineOn(false) }

// newMachineOn is newMachine on the first segment or, far, the second one.
func newMachineOn(far bool) (*machine, error) {
	m := &machine{id: newID(), far: far}
	m.dir = filepath.Join("/tmp", m.id)
	m.data = filepath.Join(m.dir, "data")
	return m, m.make("OVERLAID=etc var usr opt", "FRESH=")
}

// newDefaultMachine is a machine whose /var is its own, so that brink can be
// installed there as anybody would, with its data where it is by default.
func newDefaultMachine() (*machine, error) {
	m := &machine{id: newID(), data: layout.DefaultData}
	m.dir = filepath.Join("/tmp", m.id)
	return m, m.make("OVERLAID=etc usr opt", "FRESH=var")
}

func newID() string { return "brink-e2e-" + randomID() }

func (m *machine) isDefault() bool { return m.data == layout.DefaultData }

// make builds what the machine's fields say; nothing is left when it fails.
func (m *machine) make(directories ...string) error {
	sw, err := sharedLAN()
	if err != nil {
		return err
	}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return err
	}
	if err := theJanitor.add(m); err != nil {
		return err
	}
	env := append(directories, "DIR="+m.dir, "NAME="+m.id, "ROUTER="+lanHost)
	m.holder, err = newHolder("unshare --net --mount --uts -- sh -ec", machineScript, env)
	if err != nil {
		return errors.Join(fmt.Errorf("making machine %s: %w", m.id, err), m.destroy())
	}
	if err := m.moveIn(sw); err != nil {
		return errors.Join(fmt.Errorf("connecting machine %s: %w", m.id, err), m.destroy())
	}
	return nil
}

// moveIn completes a machine that has its namespaces. The mount namespace's name
// is kept: it is what leads to the machine's processes, also when the holder has
// ended.
func (m *machine) moveIn(sw *lan) (err error) {
	if m.namespace, err = os.Readlink(m.holder.proc("ns/mnt")); err != nil {
		return err
	}
	if err := theJanitor.add(m); err != nil { // again, now with its namespace
		return err
	}
	if err := m.connect(sw); err != nil {
		return err
	}
	m.before, err = m.takeSnapshot()
	return err
}

// connect gives the machine its address and the default route from which a
// kubelet learns which address is the node's.
func (m *machine) connect(sw *lan) (err error) {
	bridge, prefix, router := "br0", lanPrefix, lanHost
	if m.far {
		bridge, prefix, router = "br1", farPrefix, farHost
	}
	if m.addr, err = sw.attach(m.holder.pid(), bridge, prefix); err != nil {
		return err
	}
	setup := [][]string{
		{"address", "add", m.addr.String() + "/24", "dev", "eth0"},
		{"link", "set", "eth0", "up"},
		{"route", "add", "default", "via", router},
	}
	if !m.far {
		setup = append(setup, []string{"address", "add", m.addr6().String() + "/64", "dev", "eth0", "nodad"},
			[]string{"-6", "route", "add", "default", "via", lanPrefix6 + "1"})
	}
	for _, args := range setup {
		if err := m.holder.run(append([]string{"ip"}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// addr6 is the machine's IPv6 address, of the same number.
func (m *machine) addr6() netip.Addr {
	return netip.MustParseAddr(lanPrefix6 + strings.TrimPrefix(m.addr.String(), lanPrefix))
}

// addrLike is the machine's address of the family of ip.
func (m *machine) addrLike(ip string) string {
	if strings.Contains(ip, ":") {
		return m.addr6().String()
	}
	return m.addr.String()
}

func randomID() string {
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (m *machine) netns() netns { return m.holder.netns() }

func (m *machine) layout() layout.Layout { return layout.New(m.data) }

// inside is where the tests find a file of the machine.
func (m *machine) inside(path string) string { return m.holder.proc("root" + path) }

// command is a command as root types it on the machine.
func (m *machine) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := m.holder.enter(ctx, argv...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + m.dir, "TERM=xterm",
	}
	if !m.isDefault() {
		cmd.Env = append(cmd.Env, "KUBECONFIG="+m.kubeconfig())
	}
	// Asked politely first: brink kubectl has terminals and connections to give back.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// kubeconfig is the administrator's, as the tests find it.
func (m *machine) kubeconfig() string {
	if m.isDefault() {
		return m.inside(filepath.Join(layout.ConfigDir, "brink.yaml"))
	}
	return filepath.Join(m.dir, "kubeconfig")
}

// result is what a finished command left.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// patience bounds every wait. It is long because two cores may be shared with
// anything; a wait that runs into it is a failure, never a measurement.
const patience = 3 * time.Minute

// run runs a command on the machine to its end. The error is about not being
// able to; how the command ended is in the result.
func (m *machine) run(stdin string, argv ...string) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := m.command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s: did not end within %v\n%v", strings.Join(argv, " "), patience, r)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}

// brink runs a brink command to its end.
func (m *machine) brink(args ...string) (result, error) {
	return m.run("", append([]string{brinkBinary}, args...)...)
}

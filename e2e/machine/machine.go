package machine

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"brink/internal/layout"
)

// Machine is a host as brink sees it: namespaces, an address, private system
// directories, and an id that is also its host name and its cgroup root.
type Machine struct {
	Holder *Holder
	ID     string
	// Dir is the machine's own directory, outside and inside.
	Dir string
	// Data is brink's data directory: below Dir, or the default.
	Data string
	Addr netip.Addr

	config Config
	// namespace is the mount namespace's name, such as mnt:[4026532281].
	namespace string
	// before is what there was before brink ran.
	before snapshot
}

// Config says what a machine is like.
type Config struct {
	// Prefix is how the machine's id begins; random letters follow.
	Prefix string
	// Parent is the directory in which the machine's own is made. Its path must be
	// short: unix sockets allow paths of 107 bytes only.
	Parent string
	// Data is brink's data directory; empty is one below the machine's own.
	Data string
	// Overlaid are directories of the host, such as "etc", that the machine sees with
	// its changes kept apart. Those in Fresh are empty: overlayfs does not work on
	// itself, so containerd's own directory must not be on one.
	Overlaid, Fresh []string
	// Switch is where the machine is plugged in. Without one it is alone at the end of
	// a cable, with an address of the segment all the same.
	Switch  *Switch
	Segment Segment
	// Program is the brink that runs there.
	Program string
	// Janitor erases the machine when this program is killed.
	Janitor *Janitor
}

// script sets up the mounts, private at first. At its end they are shared again
// among themselves, as systemd leaves them: pods may ask for mount propagation.
// DIR may be hidden by a fresh directory; it is bound to where it was, so that what
// is written there goes to the host's file system.
const script = `
mount --make-rprivate /
for d in $OVERLAID; do
	[ -d /$d ] || continue
	mkdir -p $DIR/upper/$d $DIR/work/$d
	mount -t overlay overlay -o lowerdir=/$d,upperdir=$DIR/upper/$d,workdir=$DIR/work/$d /$d
done
for d in $FRESH; do
	mkdir -p $DIR/fresh/$d
	mount --bind $DIR /mnt
	mount --bind /mnt/fresh/$d /$d
	[ -d $DIR ] || { mkdir -p $DIR; mount --bind /mnt $DIR; }
	umount /mnt
done
mkdir -p $DIR/log /var/log /var/lib /var/tmp
mount --bind $DIR/log /var/log
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/mount # mount(8) makes it on every booted machine
mount --make-rshared /
rm -rf /etc/brink /etc/resolv.conf
echo nameserver $ROUTER > /etc/resolv.conf
echo 127.0.0.1 localhost $NAME > /etc/hosts
echo $NAME > /etc/hostname
echo $NAME > /proc/sys/kernel/hostname`

// New makes a machine. Nothing is left of one that could not be made.
func New(c Config) (*Machine, error) {
	m := &Machine{ID: c.Prefix + RandomID(), config: c}
	m.Dir = filepath.Join(c.Parent, m.ID)
	m.Data = cmp.Or(c.Data, filepath.Join(m.Dir, "data"))
	if err := os.Mkdir(m.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := m.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("making machine %s: %w", m.ID, err), m.Destroy())
	}
	return m, nil
}

// RandomID returns six random letters and digits.
func RandomID() string {
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// build makes the namespaces and connects them. The mount namespace's name is kept:
// it is what leads to the machine's processes, also when the holder has ended.
func (m *Machine) build() (err error) {
	if err := m.config.Janitor.add(m); err != nil {
		return err
	}
	env := []string{
		"OVERLAID=" + strings.Join(m.config.Overlaid, " "), "FRESH=" + strings.Join(m.config.Fresh, " "),
		"DIR=" + m.Dir, "NAME=" + m.ID, "ROUTER=" + m.config.Segment.Gateway().String(),
	}
	if m.Holder, err = hold([]string{"--net", "--mount", "--uts"}, script, env); err != nil {
		return err
	}
	if m.namespace, err = os.Readlink(m.Holder.Proc("ns/mnt")); err != nil {
		return err
	}
	if err := m.config.Janitor.add(m); err != nil { // again, now with its namespace
		return err
	}
	if err := m.connect(); err != nil {
		return fmt.Errorf("connecting it: %w", err)
	}
	m.before, err = m.takeSnapshot()
	return err
}

// cableScript is the network of a machine that is alone: the other end of its cable
// is a link that nobody uses.
const cableScript = `
ip link add eth0 type veth peer name wire
ip link set wire up`

// connect gives the machine its address and the default route from which a kubelet
// learns which address is the node's.
func (m *Machine) connect() (err error) {
	segment := m.config.Segment
	if m.config.Switch == nil {
		if err := m.Holder.Script(cableScript); err != nil {
			return err
		}
		m.Addr, err = segment.addr(2)
	} else {
		m.Addr, err = m.config.Switch.Plug(m.Holder, segment)
	}
	if err != nil {
		return err
	}
	commands := []string{
		segment.addressCommand(m.Addr, "eth0"), "ip link set eth0 up",
		"ip route add default via " + segment.Gateway().String(),
	}
	if segment.Net6.IsValid() {
		commands = append(commands, segment.addressCommand(m.Addr6(), "eth0"),
			"ip -6 route add default via "+segment.Gateway6().String())
	}
	return m.Holder.Script(strings.Join(commands, "\n"))
}

// IsDefault reports whether brink has its default paths on the machine.
func (m *Machine) IsDefault() bool { return m.Data == layout.DefaultData }

// Addr6 is the machine's IPv6 address, with the same number as Addr.
func (m *Machine) Addr6() netip.Addr { return m.config.Segment.addr6(m.Addr) }

// AddrLike is the machine's address of the family of ip.
func (m *Machine) AddrLike(ip string) string {
	if strings.Contains(ip, ":") {
		return m.Addr6().String()
	}
	return m.Addr.String()
}

// Netns is the machine's network namespace.
func (m *Machine) Netns() Netns { return m.Holder.Netns() }

// Layout has the paths of the machine's brink.
func (m *Machine) Layout() layout.Layout { return layout.New(m.Data) }

// Inside is where a file of the machine is found from outside.
func (m *Machine) Inside(path string) string { return m.Holder.Proc("root" + path) }

// Kubeconfig is the administrator's, as it is found from outside.
func (m *Machine) Kubeconfig() string {
	if m.IsDefault() {
		return m.Inside(filepath.Join(layout.ConfigDir, "brink.yaml"))
	}
	return filepath.Join(m.Dir, "kubeconfig")
}

// UseDisk puts the data directory below a mount point that is made later and is not
// a leftover.
func (m *Machine) UseDisk(mountPoint string) error {
	m.Data = filepath.Join(mountPoint, "data")
	m.before.mounts[mountPoint] = true
	return m.config.Janitor.add(m)
}

// Command is a command as root types it on the machine.
func (m *Machine) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := m.Holder.Command(ctx, argv...)
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + m.Dir, "TERM=xterm",
	}
	if !m.IsDefault() {
		cmd.Env = append(cmd.Env, "KUBECONFIG="+m.Kubeconfig())
	}
	// Asked politely first: brink kubectl has terminals and connections to give back.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Program is the brink that the machine runs.
func (m *Machine) Program() string { return m.config.Program }

// UseProgram has the machine run another brink from now on.
func (m *Machine) UseProgram(path string) { m.config.Program = path }

// Result is what a finished command left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.Code, r.Stdout, r.Stderr)
}

// Patience bounds every wait. It is long because two cores may be shared with
// anything; a wait that runs into it is a failure, never a measurement.
const Patience = 3 * time.Minute

// Run runs a command on the machine to its end. The error is about not being able
// to; how the command ended is in the result.
func (m *Machine) Run(stdin string, argv ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := m.Command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s: did not end within %v\n%v", strings.Join(argv, " "), Patience, r)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}

// Brink runs a brink command to its end.
func (m *Machine) Brink(args ...string) (Result, error) {
	return m.Run("", append([]string{m.config.Program}, args...)...)
}

// Isolate drops everything that comes from or goes to other machines.
func (m *Machine) Isolate() error {
	return m.Holder.Run("nft", "add table inet e2e; "+
		"add chain inet e2e in { type filter hook prerouting priority -400; }; add rule inet e2e in iifname eth0 drop; "+
		"add chain inet e2e out { type filter hook postrouting priority 400; }; add rule inet e2e out oifname eth0 drop")
}

// Heal undoes Isolate.
func (m *Machine) Heal() error { return m.Holder.Run("nft", "delete table inet e2e") }

package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"brink/e2e/machine"
)

// Guest is a booted system. Its methods end the test when what they do is impossible.
type Guest struct {
	testing.TB
	*system
}

// system is what a guest is, whichever test looks at it.
type system struct {
	id     string
	dir    string
	name   string
	addr   netip.Addr
	net    *Net
	recipe Recipe
	limits Limits
	holder *machine.Holder // of the mount namespace in which the root is put together

	boots   int
	process *exec.Cmd     // systemd-nspawn, or the virtual machine
	ended   chan struct{} // closed when process has ended

	leader int // the first process of a container, as this machine numbers it

	// Of a virtual machine: its root, what was changed before the first boot, the serial
	// line and what comes over it.
	root, changes string
	line          io.ReadWriteCloser
	answers       *bufio.Reader
}

// Limits are a small board's. Zero is no limit.
type Limits struct {
	// Memory in bytes; CPU in hundredths of a core.
	Memory, CPU int
}

// Option says what is not usual about a guest.
type Option func(*system)

// On plugs the guest into a network with other guests. Without it, it has one of its own.
func On(n *Net) Option { return func(s *system) { s.net = n } }

// Named gives the guest a host name; the usual one is "guest".
func Named(name string) Option { return func(s *system) { s.name = name } }

// Small limits the guest to what a board has.
func Small(l Limits) Option { return func(s *system) { s.limits = l } }

// New boots a guest that goes with the test.
func New(t testing.TB, r Recipe, options ...Option) *Guest {
	t.Helper()
	g := Off(t, r, options...)
	g.Boot()
	return g
}

// Off is New without booting: the root may be changed first (Path).
func Off(t testing.TB, r Recipe, options ...Option) *Guest {
	t.Helper()
	if janitor == nil {
		t.Fatal("guest: TestMain must call guest.Main")
	}
	g := &Guest{t, &system{id: "brink-guest-" + machine.RandomID(), name: "guest", recipe: r}}
	for _, option := range options {
		option(g.system)
	}
	if g.net == nil {
		g.net = NewNet(t)
	}
	g.addr = g.net.next()
	root, err := r.Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.destroy)
	if err := g.clone(root); err != nil {
		t.Fatalf("making a guest of %s: %v", root, err)
	}
	return g
}

// In is the guest for another test, such as a subtest.
func (g *Guest) In(t testing.TB) *Guest { return &Guest{t, g.system} }

// ID is also the name of the guest's cgroups.
func (g *Guest) ID() string { return g.id }

// Addr is the guest's address in its network.
func (g *Guest) Addr() netip.Addr { return g.addr }

// Net is the network that the guest is plugged into.
func (g *Guest) Net() *Net { return g.net }

// Architecture is Go's name of the guest's, empty for this machine's.
func (g *Guest) Architecture() string { return g.recipe.architecture }

// Boots counts the boots.
func (g *Guest) Boots() int { return g.boots }

// Serve is Net.Serve.
func (g *Guest) Serve(dir string) (url string) {
	g.Helper()
	return g.net.Serve(g, dir)
}

func (s *system) enclosure() machine.Enclosure { return machine.Enclosure{ID: s.id, Dir: s.dir} }

// assemble puts a root together. It is private to the mount namespace of the holder,
// and so is /run, where systemd-nspawn makes files for every container.
const assemble = `
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
cd "$DIR"
mkdir upper work root lib
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=upper,workdir=work" root
cp -a "$LOWER/var/lib/." lib
mount --bind lib root/var/lib
`

func (s *system) clone(lower string) error {
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	s.dir = filepath.Join(cache, s.id)
	if err := errors.Join(janitor.Watch(s.enclosure()), os.Mkdir(s.dir, 0o755)); err != nil {
		return err
	}
	if s.recipe.virtual != nil {
		return s.recipe.virtual.makeDisk(s, lower)
	}
	if s.holder, err = machine.HoldMounts(assemble, "DIR="+s.dir, "LOWER="+lower); err != nil {
		return err
	}
	return s.configure()
}

// files are what differs between two guests of a root.
func (s *system) files() map[string]string {
	gateway := s.net.Host().String()
	return map[string]string{
		"etc/hostname": s.name + "\n",
		"etc/hosts":    "127.0.0.1 localhost\n127.0.1.1 " + s.name + "\n",
		"etc/systemd/network/10-host0.network": fmt.Sprintf("[Match]\nName=host0 vec0 en*\n[Network]\nAddress=%s/%d\nGateway=%s\n",
			s.addr, subnet.Bits(), gateway),
		"etc/network/interfaces": fmt.Sprintf("auto lo\niface lo inet loopback\nauto host0\niface host0 inet static\n\taddress %s/%d\n\tgateway %s\n",
			s.addr, subnet.Bits(), gateway),
	}
}

// configure writes the files for the init system that is there.
func (s *system) configure() error {
	for name, content := range s.files() {
		path := s.outside("/" + name)
		if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, os.ErrNotExist) {
			continue // of another init system
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// outside is where a file of the guest is found from outside, whether or not it runs.
// Absolute links in the way would lead to this machine's files. Of a virtual machine it
// is where changes lie that its disk gets at the first boot.
func (s *system) outside(path string) string {
	if s.recipe.virtual != nil {
		return s.changes + path
	}
	if s.leader != 0 {
		return "/proc/" + strconv.Itoa(s.leader) + "/root" + path
	}
	return s.holder.Proc("root" + filepath.Join(s.dir, "root") + path)
}

// destroy removes the guest. The janitor goes on knowing one that could not be removed.
func (g *Guest) destroy() {
	g.explain()
	err := g.enclosure().Kill()
	if g.holder != nil {
		g.holder.Close()
	}
	if err = errors.Join(err, g.enclosure().Erase()); err == nil {
		err = janitor.Forget(g.enclosure())
	}
	if err != nil {
		g.Errorf("removing guest %s: %v", g.id, err)
	}
}

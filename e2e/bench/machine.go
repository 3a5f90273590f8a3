package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine is a host of its own as far as the measured programs see it. It is
// known by its id: its directory, host name and cgroup root carry it.
type machine struct {
	id, dir string
	ip      string
	lan     *lan      // nil for a machine that is alone
	holder  *exec.Cmd // keeps the namespaces
	release io.Closer // ends the holder
	janitor io.Closer // erases the machine when this process is gone
	inside  chan func()
}

// A machine that is alone is at the end of a cable whose other end is held by
// nobody; on a switch it is router to nobody either.
const (
	subnet  = "172.31.249."
	gateway = subnet + "1"
	loneIP  = subnet + "2"
)

// machineScript gives the machine an empty /run and /var and the host's /etc
// without a configuration of brink's. Its own directory, which is in /var, is
// bound to where it was: what is measured writes on the host's file system and
// not through an overlay.
const machineScript = `
mount --make-rprivate /
mkdir -p $DIR/etc $DIR/work $DIR/var/lib/cni $DIR/var/log $DIR/var/tmp/$ID
mount -t overlay overlay -o lowerdir=/etc,upperdir=$DIR/etc,workdir=$DIR/work /etc
rm -rf /etc/brink /etc/resolv.conf
echo nameserver ` + gateway + ` > /etc/resolv.conf
mount --bind $DIR /mnt
mount --bind $DIR/var /var
mount --bind /mnt $DIR
umount /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mount --make-rshared /
echo $ID > /proc/sys/kernel/hostname
ip link set lo up
` + holderEnd

// holderEnd is how a script ends that is run by startHolder.
const holderEnd = `
echo ready
exec cat`

// cableScript connects a machine that is alone.
const cableScript = `
ip link add eth0 type veth peer name wire
ip link set wire up`

// addressScript gives a connected machine its address.
const addressScript = `
ip address add $IP/24 dev eth0
ip link set eth0 up
ip route add default via ` + gateway

func newMachine() (*machine, error) { return makeMachine(nil) }

// makeMachine makes a machine that is plugged into a switch, or alone with nil.
func makeMachine(l *lan) (_ *machine, err error) {
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	m := &machine{id: "brink-bench-" + hex.EncodeToString(b), ip: loneIP, lan: l, inside: make(chan func())}
	// Not the user's TMPDIR: unix sockets allow paths of 107 bytes, and a tmpfs
	// would hide disk writes.
	m.dir = filepath.Join("/var/tmp", m.id)
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, err
	}
	if err := m.startJanitor(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(m.dir))
	}
	if err := m.startHolder(); err != nil {
		return nil, errors.Join(fmt.Errorf("making machine %s: %w", m.id, err), m.destroy())
	}
	entered := make(chan error)
	go m.stayInside(entered)
	if err := <-entered; err != nil {
		return nil, errors.Join(fmt.Errorf("entering machine %s: %w", m.id, err), m.destroy())
	}
	return m, nil
}

func (m *machine) startHolder() (err error) {
	m.holder, m.release, err = startHolder([]string{"--net", "--mount", "--uts"}, machineScript, "DIR="+m.dir, "ID="+m.id)
	if err != nil {
		return err
	}
	if m.lan == nil {
		err = m.script(cableScript)
	} else {
		m.ip, err = m.lan.plug(m.holder.Process.Pid)
	}
	return errors.Join(err, m.script(addressScript, "IP="+m.ip))
}

// script runs shell commands on the machine.
func (m *machine) script(commands string, env ...string) error {
	return runScript(m.holder.Process.Pid, commands, env...)
}

// proc is a file of the holder in /proc.
func (m *machine) proc(rest string) string {
	return fmt.Sprintf("/proc/%d/%s", m.holder.Process.Pid, rest)
}

// path is where a file of the machine is found from outside.
func (m *machine) path(path string) string { return m.proc("root" + path) }

// stayInside runs what comes over the channel on a thread in the machine's
// network. The thread is never given back, so it ends with this goroutine.
func (m *machine) stayInside(entered chan<- error) {
	runtime.LockOSThread()
	f, err := os.Open(m.proc("ns/net"))
	if err == nil {
		err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
		_ = f.Close()
	}
	entered <- err
	if err != nil {
		return
	}
	for f := range m.inside {
		f()
	}
}

// dial connects from inside the machine to an IP address.
func (m *machine) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	m.inside <- func() {
		defer close(done)
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
	}
	<-done
	return conn, err
}

// command is a command as root types it on the machine. nsenter becomes the
// command, so signals and the process id are the command's own.
func (m *machine) command(ctx context.Context, argv ...string) *exec.Cmd {
	args := []string{"--target", strconv.Itoa(m.holder.Process.Pid), "--net", "--mount", "--uts", "--wd=" + m.dir, "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + m.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for us alone
	return cmd
}

// logged is command with its output in a file on the machine's tmpfs: what goes
// to the journal is nobody's disk write here.
func (m *machine) logged(name string, argv ...string) (*exec.Cmd, error) {
	cmd := m.command(context.Background(), argv...)
	f, err := os.OpenFile(m.path("/run/"+name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = f, f
	return cmd, nil
}

// logTail is the end of what a program wrote.
func (m *machine) logTail(name string) string {
	b, _ := os.ReadFile(m.path("/run/" + name + ".log"))
	if most := 1500; len(b) > most {
		b = b[len(b)-most:]
	}
	return fmt.Sprintf("--- %s\n%s\n", name, b)
}

const cgroupFS = "/sys/fs/cgroup"

// cgroups lists the machine's cgroups, children before parents.
func cgroups(id string) []string {
	roots, _ := filepath.Glob(filepath.Join(cgroupFS, "*", id))
	roots = append(roots, filepath.Join(cgroupFS, id))
	var dirs []string
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// makeCgroupRoot makes the cgroup root of the machine where the measured kubelet
// expects to find it. On version 1 a new cpuset is empty and takes no process.
func (m *machine) makeCgroupRoot(version int) error {
	if version == 2 {
		return m.makeCgroup2Root()
	}
	entries, err := os.ReadDir(cgroupFS)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "unified" {
			continue
		}
		hierarchy := filepath.Join(cgroupFS, e.Name())
		if err := os.Mkdir(filepath.Join(hierarchy, m.id), 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(hierarchy, file))
			if err != nil {
				continue // not the cpuset hierarchy
			}
			if err := os.WriteFile(filepath.Join(hierarchy, m.id, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *machine) makeCgroup2Root() error {
	dir := filepath.Join(cgroupFS, m.id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	enable := "+" + strings.Join(strings.Fields(string(controllers)), " +")
	return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte(enable), 0o644)
}

// destroy removes the machine, whatever state it is in.
func (m *machine) destroy() error {
	close(m.inside)
	if m.holder != nil && m.holder.Process != nil {
		_ = m.release.Close()
		_ = m.holder.Wait()
	}
	err := erase(m.id)
	_ = m.janitor.Close()
	return err
}

// erase ends and removes everything that carries the machine's id.
func erase(id string) error {
	dir := filepath.Join("/var/tmp", id)
	deadline := time.Now().Add(time.Minute)
	for pids := processes(id, dir); len(pids) > 0; pids = processes(id, dir) {
		if time.Now().After(deadline) {
			return fmt.Errorf("machine %s: processes %v do not end", id, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, cgroup := range cgroups(id) {
		for os.Remove(cgroup) != nil && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return os.RemoveAll(dir)
}

// own are the machine's processes that are measured, whoever started them: all
// in its mount namespace save its holder and the shims. Pods have namespaces of
// their own.
func (m *machine) own() []int {
	namespace, err := os.Readlink(m.proc("ns/mnt"))
	if err != nil {
		return nil
	}
	shims := m.shims()
	var out []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == m.holder.Process.Pid || slices.Contains(shims, pid) {
			continue
		}
		if there, err := os.Readlink(procFile(pid, "ns/mnt")); err == nil && there == namespace {
			out = append(out, pid)
		}
	}
	return out
}

// processes are those whose programs lie in the machine's directory or that run
// in its cgroups: all that was measured, the shims and the pods.
func processes(id, dir string) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if strings.HasPrefix(exe, dir+"/") || strings.Contains(string(cgroup), ":/"+id) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// janitorEnv makes this program the janitor of the machine that it names.
const janitorEnv = "BRINK_BENCH_JANITOR"

// startJanitor starts a process in a session of its own that erases the machine
// after this one's end, however it ends.
func (m *machine) startJanitor() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), janitorEnv+"="+m.id)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	m.janitor = stdin
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

func runJanitor(id string) {
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := erase(id); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// startHolder starts a process that keeps new namespaces alive until its standard
// input, which is returned, is closed: at the latest when this program ends. The
// script must end in holderEnd.
func startHolder(namespaces []string, script string, env ...string) (*exec.Cmd, io.Closer, error) {
	cmd := exec.Command("unshare", append(namespaces, "--", "sh", "-ec", script)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		_ = stdin.Close()
		_ = cmd.Wait()
		return nil, nil, fmt.Errorf("setting up namespaces: %q: %w", line, err)
	}
	return cmd, stdin, nil
}

// runScript runs shell commands in the network and mount namespace of a process.
func runScript(pid int, script string, env ...string) error {
	cmd := exec.Command("nsenter", "--target", strconv.Itoa(pid), "--net", "--mount", "--", "sh", "-ec", script)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, bytes.TrimSpace(out))
	}
	return nil
}

// netns is a network namespace that lives as long as its holder.
type netns struct {
	holder  *exec.Cmd
	release io.Closer
}

func newNetns(script string, env ...string) (*netns, error) {
	holder, release, err := startHolder([]string{"--net"}, "ip link set lo up\n"+script+holderEnd, env...)
	if err != nil {
		return nil, err
	}
	return &netns{holder, release}, nil
}

func (n *netns) pid() int { return n.holder.Process.Pid }

func (n *netns) script(commands string, env ...string) error {
	return runScript(n.pid(), commands, env...)
}

func (n *netns) close() {
	_ = n.release.Close()
	_ = n.holder.Wait()
}

// within runs f on a thread in the network namespace of a process. Sockets made
// there stay in it. The thread is not given back and ends with f.
func within(pid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := os.Open(procFile(pid, "ns/net"))
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			_ = ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// lan is a switch for machines: a network namespace with a bridge. It shows no
// packet to IP's rules, as a switch does not.
type lan struct {
	*netns
	plugged int
}

func newLAN() (*lan, error) {
	n, err := newNetns(plainBridges + "ip link add br0 type bridge\nip link set br0 up")
	if err != nil {
		return nil, fmt.Errorf("making the switch: %w", err)
	}
	return &lan{netns: n}, nil
}

// plainBridges is for kernels that have br_netfilter built in: there bridges show
// packets to IP's rules unless told not to. Elsewhere there is no such setting.
const (
	plainBridges = `
f=/proc/sys/net/bridge/bridge-nf-call-iptables
[ ! -e $f ] || echo 0 > $f
`
	shownBridges = `
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
`
)

// plug connects the network namespace of a process, which gets the link eth0, and
// returns an address for it.
func (l *lan) plug(pid int) (string, error) {
	l.plugged++
	err := l.script(`
ip link add port$N type veth peer name eth0 netns $PEER
ip link set port$N master br0 up`, fmt.Sprintf("N=%d", l.plugged), fmt.Sprintf("PEER=%d", pid))
	return subnet + strconv.Itoa(l.plugged+1), err
}

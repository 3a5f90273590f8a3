package machine

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brink/internal/testneed"
	"brink/internal/testprocess"
	"brink/internal/testwait"
)

func TestMain(m *testing.M) {
	if RunJanitor() {
		return
	}
	os.Exit(m.Run())
}

// madeMachine is what a program that is about to be killed tells of its machine.
type madeMachine struct {
	Dir, Cgroup string
	Process     int
}

// TestJanitor kills a program that has made a machine: its directory, its cgroup and
// what runs on it must go.
func TestJanitor(t *testing.T) {
	testneed.Root(t)
	if testprocess.Argument() != "" {
		makeAndWait(t)
	}
	cmd := testprocess.Again(t, "machine")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var made madeMachine
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	if err := json.Unmarshal([]byte(line), &made); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	if !isAlive(made.Process) {
		t.Fatal("nothing runs on the machine, this test shows nothing")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, dir := range []string{made.Dir, made.Cgroup} {
		testwait.Until(t, dir+" is gone", func() bool {
			_, err := os.Stat(dir)
			return errors.Is(err, fs.ErrNotExist)
		})
	}
	testwait.Until(t, "the machine's process is gone", func() bool { return !isAlive(made.Process) })
}

// isAlive reports whether a process runs; one that was not reaped does not.
func isAlive(pid int) bool { return CommandLine(pid) != "" }

// makeAndWait makes a machine with a process and a cgroup, tells of it, and is killed.
func makeAndWait(t *testing.T) {
	janitor, err := StartJanitor("")
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{Prefix: "brink-e2e-", Parent: "/tmp", Segment: Segment{Net: netip.MustParsePrefix("172.31.248.0/24")}, Janitor: janitor})
	if err != nil {
		t.Fatal(err)
	}
	dir := cgroupOf(m)
	cmd := m.Command(t.Context(), "sleep", "100000")
	cmd.Cancel = nil
	if err := errors.Join(os.Mkdir(dir, 0o755), cmd.Start()); err != nil {
		t.Fatal(errors.Join(err, m.Destroy()))
	}
	awaitSleep(t, cmd.Process.Pid)
	line, err := json.Marshal(madeMachine{m.Dir, dir, cmd.Process.Pid})
	if err != nil {
		t.Fatal(errors.Join(err, m.Destroy()))
	}
	fmt.Println(string(line))
	time.Sleep(time.Minute)
	t.Fatal(errors.Join(errors.New("not killed"), m.Destroy()))
}

// TestLeftovers makes one thing of each kind on a machine: all of them are found, and
// none before.
func TestLeftovers(t *testing.T) {
	testneed.Root(t)
	m := newTestMachine(t)
	if err := m.Holder.Run("ip", "link", "delete", "eth0"); err != nil { // with its cable
		t.Fatal(err)
	}
	if found, err := m.Leftovers(); err != nil || len(found) > 0 {
		t.Fatalf("a new machine has %q, %v", found, err)
	}
	cgroup, pid := cgroupOf(m), leaveThings(t, m)
	found, err := m.Leftovers()
	if err != nil {
		t.Error(err)
	}
	all := strings.Join(found, "\n")
	for _, part := range []string{
		fmt.Sprintf("process %d: ", pid), "mount /var/tmp", "cgroup " + cgroup, "link left0", "nft table inet left",
		"file " + m.Dir + "/upper/etc/left", "file " + m.Inside("/run/left"), "in the data directory .",
	} {
		if !strings.Contains(all, part) {
			t.Errorf("%q is not found among\n%s", part, all)
		}
	}
	if len(found) != 8 {
		t.Errorf("found are\n%s", all)
	}
}

// newTestMachine makes a machine that goes with the test.
func newTestMachine(t *testing.T) *Machine {
	t.Helper()
	janitor, err := StartJanitor("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(janitor.Close)
	m, err := New(Config{
		Prefix: "brink-e2e-", Parent: "/tmp", Overlaid: []string{"etc", "var"},
		Segment: Segment{Net: netip.MustParsePrefix("172.31.248.0/24")}, Janitor: janitor,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// cgroupOf is where a machine's cgroup would be.
func cgroupOf(m *Machine) string {
	if Cgroup2() {
		return filepath.Join(CgroupFS, m.ID)
	}
	return filepath.Join(CgroupFS, "memory", m.ID)
}

// leaveThings makes one thing of each kind and returns the process.
func leaveThings(t *testing.T, m *Machine) (pid int) {
	t.Helper()
	err := m.Holder.Script(`
mkdir $CGROUP /etc/left /run/left $DATA
ip link add left0 type bridge
nft add table inet left
mount -t tmpfs tmpfs /var/tmp`, "CGROUP="+cgroupOf(m), "DATA="+m.Data)
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.Command(t.Context(), "sleep", "100000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it is killed with the machine
	awaitSleep(t, cmd.Process.Pid)
	return cmd.Process.Pid
}

// awaitSleep waits until nsenter has become the command.
func awaitSleep(t *testing.T, pid int) {
	t.Helper()
	testwait.Until(t, "the command has begun", func() bool { return CommandLine(pid) == "sleep 100000" })
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	m := &Machine{ID: "till", Dir: t.TempDir(), Data: "/somewhere"}
	n := NewServer(m, "debug: true")
	for _, step := range []struct{ key, value string }{{"debug", ""}, {"node-name", "other"}, {"cluster-cidr", "10.1.0.0/16"}, {"missing", ""}} {
		if err := n.Configure(step.key, step.value); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(n.ConfigFile())
	want := "data-dir: /somewhere\nwrite-kubeconfig: " + m.Kubeconfig() + "\nnode-name: other\nkubelet-arg:\n  - cgroup-root=/till\ncluster-cidr: 10.1.0.0/16\n"
	if err != nil || string(got) != want {
		t.Errorf("the configuration is\n%s(%v), want\n%s", got, err, want)
	}
}

func TestSegmentAddresses(t *testing.T) {
	t.Parallel()
	s := Segment{Net: netip.MustParsePrefix("192.0.2.0/24"), Net6: netip.MustParsePrefix("2001:db8::/64")}
	last, err := s.addr(254)
	if err != nil || last.String() != "192.0.2.254" || s.addr6(last).String() != "2001:db8::fe" {
		t.Errorf("the last addresses are %s and %s, %v", last, s.addr6(last), err)
	}
	if first := s.Gateway().String() + " " + s.Gateway6().String(); first != "192.0.2.1 2001:db8::1" {
		t.Errorf("the gateway is at %s", first)
	}
	if addr, err := s.addr(255); err == nil {
		t.Errorf("a machine gets the broadcast address %s", addr)
	}
}

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"brink/e2e/machine"
)

// testbed is a machine on which something is measured.
type testbed struct{ *machine.Machine }

// janitor erases what this program leaves when it is killed.
var janitor *machine.Janitor

// segment is the network of all testbeds. Nobody has the gateway's address.
var segment = machine.Segment{Bridge: "br0", Net: netip.MustParsePrefix("172.31.249.0/24")}

func newSwitch() (*machine.Switch, error) { return machine.NewSwitch(segment) }

// newTestbed makes a machine that is plugged into a switch, or alone with nil. Its
// directory is not below the user's TMPDIR: a tmpfs would hide disk writes. Its /var
// is on the same file system: what is measured does not write through an overlay.
func newTestbed(sw *machine.Switch) (*testbed, error) {
	m, err := machine.New(machine.Config{
		Prefix: "brink-bench-", Parent: "/var/tmp", Overlaid: []string{"etc"}, Fresh: []string{"var"},
		Switch: sw, Segment: segment, Janitor: janitor,
	})
	if err != nil {
		return nil, err
	}
	return &testbed{m}, nil
}

// command is a command as root types it in the machine's directory.
func (t *testbed) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := t.Command(ctx, append([]string{"env", "--chdir=" + t.Dir}, argv...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + t.Dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for us alone
	return cmd
}

// logged is command with its output in a file on the machine's tmpfs: what goes
// to the journal is nobody's disk write here.
func (t *testbed) logged(name string, argv ...string) (*exec.Cmd, error) {
	cmd := t.command(context.Background(), argv...)
	f, err := os.OpenFile(t.Inside("/run/"+name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = f, f
	return cmd, nil
}

// logTail is the end of what a program wrote.
func (t *testbed) logTail(name string) string {
	b, _ := os.ReadFile(t.Inside("/run/" + name + ".log"))
	if most := 1500; len(b) > most {
		b = b[len(b)-most:]
	}
	return fmt.Sprintf("--- %s\n%s\n", name, b)
}

// own are the machine's processes that are measured, whoever started them: all in its
// mount namespace except its holder and the shims. Pods have namespaces of their
// own.
func (t *testbed) own() []int {
	shims := t.Shims()
	return slices.DeleteFunc(t.Processes(), func(pid int) bool {
		return pid == t.Holder.PID() || slices.Contains(shims, pid) || !t.IsInside(pid)
	})
}

// makeCgroupRoot makes the cgroup root of the machine where the measured kubelet
// expects to find it. On version 1 a new cpuset is empty and takes no process.
func (t *testbed) makeCgroupRoot(version int) error {
	if version == 2 {
		return t.makeCgroup2Root()
	}
	entries, err := os.ReadDir(machine.CgroupFS)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "unified" {
			continue
		}
		hierarchy := filepath.Join(machine.CgroupFS, e.Name())
		if err := os.Mkdir(filepath.Join(hierarchy, t.ID), 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(hierarchy, file))
			if err != nil {
				continue // not the cpuset hierarchy
			}
			if err := os.WriteFile(filepath.Join(hierarchy, t.ID, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *testbed) makeCgroup2Root() error {
	dir := filepath.Join(machine.CgroupFS, t.ID)
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

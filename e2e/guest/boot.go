package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brink/e2e/machine"
)

// askedToReboot is systemd-nspawn's exit code for a guest that asked for a reboot.
const askedToReboot = 133

// begin enters the guest's cgroups and becomes systemd-nspawn. The system calls and
// capabilities are those of a machine, except for setting the clock, which is everybody's.
const begin = `
for dir in $CGROUPS; do echo $$ >"$dir/cgroup.procs"; done
exec systemd-nspawn --quiet --register=no --keep-unit --boot --machine="g${ID##*-}" --directory="$DIR/root" \
	--hostname="$NAME" --network-bridge=br0 --console=pipe --resolv-conf=off --timezone=off --link-journal=no \
	--capability=all --drop-capability=CAP_SYS_TIME \
	--system-call-filter='@keyring bpf @privileged @mount @clock @raw-io' --bind=/dev/kmsg`

// Boot starts a guest that is off and waits until its init system is through.
func (g *Guest) Boot() {
	g.Helper()
	if err := g.start(); err != nil {
		g.Fatalf("booting guest %s: %v", g.id, err)
	}
	g.Eventually("the boot's end", func() error {
		r, err := g.run(context.Background(), "", "sh", "-c", g.recipe.Up)
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("%s: %v", strings.TrimSpace(g.recipe.Up), r)
		}
		return err
	})
}

func (s *system) start() error {
	dirs, err := s.enclosure().Cgroups()
	if err != nil {
		return err
	}
	if err := s.limits.set(dirs); err != nil {
		return err
	}
	console, err := os.OpenFile(s.console(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = console.Close() }()
	if s.recipe.virtual != nil {
		return s.recipe.virtual.start(s, dirs, console)
	}
	return s.startContainer(dirs, console)
}

func (s *system) startContainer(dirs []string, console *os.File) error {
	cmd := exec.Command("nsenter", "--net="+string(s.net.Netns()), "--mount="+s.holder.Proc("ns/mnt"), "--", "sh", "-ec", begin)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes",
		"CGROUPS="+strings.Join(dirs, " "), "ID="+s.id, "DIR="+s.dir, "NAME="+s.name)
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's ^C is for the tests
	if err := s.launch(cmd); err != nil {
		return err
	}
	return s.awaitLeader()
}

func (s *system) launch(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	s.boots++
	s.process, s.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		_ = cmd.Wait()
		close(ended)
	}(s.ended)
	return nil
}

// isOff reports whether the guest does not run.
func (s *system) isOff() bool {
	if s.process == nil {
		return true
	}
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *system) console() string { return filepath.Join(s.dir, "console") }

// set writes the limits into the guest's cgroups.
func (l Limits) set(dirs []string) error {
	for _, dir := range dirs {
		write := func(file string, value int) error {
			return os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(value)), 0)
		}
		var err error
		switch controller := filepath.Base(filepath.Dir(dir)); {
		case controller == "memory" && l.Memory != 0:
			err = write("memory.limit_in_bytes", l.Memory)
		case controller == "cpu" && l.CPU != 0:
			err = errors.Join(write("cpu.cfs_period_us", 100000), write("cpu.cfs_quota_us", 1000*l.CPU))
		case machine.Cgroup2() && l != Limits{}:
			err = errors.New("limits are written for cgroups of version 1 only")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitLeader waits for the guest's first process: the only child that nspawn keeps,
// once it is the first of a namespace of its own.
func (s *system) awaitLeader() error {
	pid := s.process.Process.Pid
	for deadline := time.Now().Add(machine.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-s.ended:
			return fmt.Errorf("systemd-nspawn ended: %v\n%s", s.process.ProcessState, machine.Tail(s.console(), 4<<10))
		default:
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		for _, word := range strings.Fields(string(children)) {
			child, _ := strconv.Atoi(word)
			name, _ := os.ReadFile("/proc/" + word + "/comm")
			if first := strings.TrimSpace(string(name)); isFirst(child) && (first == "systemd" || first == "init") {
				s.leader = child
				return nil
			}
		}
	}
	return errors.New("no first process came")
}

// isFirst reports whether a process is the first of a namespace below this machine's.
func isFirst(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(numbers)
			return len(fields) > 1 && fields[len(fields)-1] == "1"
		}
	}
	return false
}

// Reboot asks the guest to reboot, waits until it has booted, and returns how long it
// took to go down.
func (g *Guest) Reboot() (down time.Duration) {
	g.Helper()
	begun := time.Now()
	if r := g.Run("reboot"); r.Code > 0 {
		// The command may be killed by what it asked for.
		g.Logf("reboot: %v", r)
	}
	select {
	case <-g.ended:
	case <-time.After(machine.Patience):
		g.Fatalf("guest %s is not down %v after it was asked to reboot\n%s", g.id, machine.Patience, machine.Tail(g.console(), 4<<10))
	}
	down = time.Since(begun)
	g.leader = 0
	// A virtual machine is told to end instead: that it was to be a reboot is not known.
	if code := g.process.ProcessState.ExitCode(); code != askedToReboot && g.recipe.virtual == nil {
		g.Fatalf("guest %s ended with code %d and not by a reboot\n%s", g.id, code, machine.Tail(g.console(), 4<<10))
	}
	g.Boot()
	return down
}

// CutPower ends all processes of the guest at once and leaves it off.
func (g *Guest) CutPower() {
	g.Helper()
	_ = g.process.Process.Kill()
	if err := g.enclosure().Kill(); err != nil {
		g.Fatal(err)
	}
	<-g.ended
	g.leader = 0
}

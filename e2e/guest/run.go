package guest

import (
	"bytes"
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

// enter goes into the cgroups of the guest's first process, and there into a child of
// systemd's own, and from there into the guest. Of systemd's hierarchy the first
// process is in a leaf, which is no place for others.
const enter = `
while IFS=: read -r _ names path; do
	case $names in
	name=systemd) dir=/sys/fs/cgroup/systemd${path%/init.scope}/guest.command ;;
	'') dir=/sys/fs/cgroup/unified${path%/init.scope}/guest.command; [ -d /sys/fs/cgroup/unified ] || dir=/sys/fs/cgroup${path%/init.scope}/guest.command ;;
	*) dir=/sys/fs/cgroup/$names$path ;;
	esac
	mkdir -p "$dir" && echo $$ >"$dir/cgroup.procs"
done <"/proc/$LEADER/cgroup"
exec nsenter --target "$LEADER" --mount --uts --ipc --net --pid --cgroup --root --wd -- "$@"`

// environment is that of a shell of root's.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=xterm", "LANG=C.UTF-8"}

// Command is a command as root types it in a container. Words in front of the command
// that have a = in them are added to its environment, as in a shell.
func (g *Guest) Command(ctx context.Context, argv ...string) *exec.Cmd {
	words := append([]string{"-ec", enter, "enter", "env", "-i"}, environment...)
	cmd := exec.CommandContext(ctx, "sh", append(words, argv...)...)
	cmd.Env = append(os.Environ(), "LEADER="+strconv.Itoa(g.leader))
	// nsenter forks to be in the namespace of processes: its child is in its group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// patience bounds a command: an installation on a quarter of a core takes minutes.
const patience = 10 * time.Minute

func (g *Guest) run(ctx context.Context, stdin string, argv ...string) (machine.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if g.recipe.virtual != nil {
		r, err := g.ask(ctx, script(stdin, argv))
		if err != nil {
			err = fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
		return r, err
	}
	cmd := g.Command(ctx, argv...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := machine.Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s: did not end within %v\n%v", strings.Join(argv, " "), patience, r)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return r, err
	}
	return r, nil
}

// Run runs a command in the guest to its end, however it ends.
func (g *Guest) Run(argv ...string) machine.Result {
	g.Helper()
	return g.RunInput("", argv...)
}

// RunInput is Run with a standard input.
func (g *Guest) RunInput(stdin string, argv ...string) machine.Result {
	g.Helper()
	r, err := g.run(context.Background(), stdin, argv...)
	if err != nil {
		g.Fatal(err)
	}
	return r
}

// Do runs a command that must succeed and returns what it wrote, without the white
// space around it.
func (g *Guest) Do(argv ...string) string {
	g.Helper()
	r := g.Run(argv...)
	if r.Code != 0 {
		g.Fatalf("%s: %v", strings.Join(argv, " "), r)
	}
	return strings.TrimSpace(r.Stdout)
}

// Sh is Do for lines of shell, of which the first that fails is the last.
func (g *Guest) Sh(script string) string {
	g.Helper()
	return g.Do("sh", "-ec", script)
}

// TrySh is Run for lines of shell.
func (g *Guest) TrySh(script string) machine.Result {
	g.Helper()
	return g.Run("sh", "-c", script)
}

// Eventually polls until cond returns nil.
func (g *Guest) Eventually(what string, cond func() error) {
	g.Helper()
	long := machine.Patience
	if g.recipe.virtual != nil || g.limits.CPU != 0 {
		long = patience
	}
	deadline := time.Now().Add(long)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.Fatalf("waiting for %s in guest %s: %v after %v", what, g.id, err, long)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// EventuallySh polls until the script succeeds and returns what it wrote.
func (g *Guest) EventuallySh(what, script string) (stdout string) {
	g.Helper()
	g.Eventually(what, func() error {
		r := g.TrySh(script)
		if stdout = strings.TrimSpace(r.Stdout); r.Code != 0 {
			return fmt.Errorf("%s: %v", script, r)
		}
		return nil
	})
	return stdout
}

// Path is where a file of the guest is found from outside, also when it is off.
// Absolute links in the way would lead to this machine's files.
func (g *Guest) Path(path string) string { return g.outside(path) }

// Write makes a file in the guest, and its directory.
func (g *Guest) Write(path, content string, mode os.FileMode) {
	g.Helper()
	if g.recipe.virtual != nil && g.boots > 0 {
		r := g.RunInput(content, "sh", "-ec", fmt.Sprintf("mkdir -p %s; cat >%s; chmod %o %s", filepath.Dir(path), path, mode, path))
		if r.Code != 0 {
			g.Fatalf("writing %s: %v", path, r)
		}
		return
	}
	outside := g.outside(path)
	err := os.MkdirAll(filepath.Dir(outside), 0o755)
	if err == nil {
		err = os.WriteFile(outside, []byte(content), mode)
	}
	if err == nil {
		err = os.Chmod(outside, mode)
	}
	if err != nil {
		g.Fatal(err)
	}
}

// Read is the content of a file in the guest.
func (g *Guest) Read(path string) string {
	g.Helper()
	if g.recipe.virtual != nil {
		r := g.Run("cat", path)
		if r.Code != 0 {
			g.Fatalf("reading %s: %v", path, r)
		}
		return r.Stdout
	}
	b, err := os.ReadFile(g.outside(path))
	if err != nil {
		g.Fatal(err)
	}
	return string(b)
}

// Place copies a file of this machine into the guest.
func (g *Guest) Place(from, path string, mode os.FileMode) {
	g.Helper()
	if g.recipe.virtual != nil && g.boots > 0 {
		url := g.Serve(filepath.Dir(from))
		g.Sh(fmt.Sprintf("mkdir -p %s; curl -sf -o %s %s/%s; chmod %o %s", filepath.Dir(path), path, url, filepath.Base(from), mode, path))
		return
	}
	outside := g.outside(path)
	if err := os.MkdirAll(filepath.Dir(outside), 0o755); err != nil {
		g.Fatal(err)
	}
	if out, err := exec.Command("cp", "--reflink=auto", from, outside).CombinedOutput(); err != nil {
		g.Fatalf("copying %s: %v: %s", from, err, out)
	}
	if err := os.Chmod(outside, mode); err != nil {
		g.Fatal(err)
	}
}

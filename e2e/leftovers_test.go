package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// leftovers is what brink made on the machine and is still there: after
// `brink uninstall` the list must be empty.
func (m *machine) leftovers() ([]string, error) {
	var found []string
	var errs []error
	for _, look := range []func() ([]string, error){
		m.leftProcesses, m.leftMounts, m.leftCgroups, m.leftLinks, m.leftRules, m.leftFiles,
	} {
		some, err := look()
		found, errs = append(found, some...), append(errs, err)
	}
	return found, errors.Join(errs...)
}

func (m *machine) leftProcesses() ([]string, error) {
	var found []string
	for _, pid := range m.trace().processes() {
		if pid != m.holder.pid() {
			found = append(found, fmt.Sprintf("process %d: %s", pid, commandLine(pid)))
		}
	}
	return found, nil
}

func commandLine(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")
}

func (m *machine) leftMounts() ([]string, error) {
	points, err := m.mountPoints()
	var found []string
	for point := range points {
		if !m.mounts[point] {
			found = append(found, "mount "+point)
		}
	}
	return found, err
}

// mountPoints are those of the machine's mount namespace.
func (m *machine) mountPoints() (map[string]bool, error) {
	b, err := os.ReadFile(m.holder.proc("mountinfo"))
	points := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		points[strings.Fields(line)[4]] = true
	}
	return points, err
}

func (m *machine) leftCgroups() ([]string, error) {
	var found []string
	for _, dir := range m.trace().cgroups() {
		found = append(found, "cgroup "+dir)
	}
	return found, nil
}

func (m *machine) leftLinks() ([]string, error) {
	links, err := m.netns().links()
	var found []string
	for _, link := range links {
		if link != "lo" && link != "eth0" {
			found = append(found, "link "+link)
		}
	}
	return found, err
}

// leftRules asks for the whole rule set: it shows iptables-nft's tables too.
func (m *machine) leftRules() ([]string, error) {
	r, err := m.run("", "nft", "list", "tables")
	var found []string
	for line := range strings.Lines(r.stdout) {
		found = append(found, "nft "+strings.TrimSpace(line))
	}
	return found, err
}

// ours are the files that the tests themselves put on a machine.
var ours = []string{"etc/resolv.conf", "etc/hosts", "etc/hostname", "etc/brink/registries.yaml"}

// leftFiles looks at what was written over the system directories. A directory
// is only reported when it is brink's by name: those like /var/log/containers
// belong to everybody.
func (m *machine) leftFiles() ([]string, error) {
	var found []string
	if _, err := os.Lstat(m.inside(m.data)); err == nil {
		found = append(found, "data directory "+m.data)
	}
	for _, root := range []string{filepath.Join(m.dir, "upper"), filepath.Join(m.dir, "log"), m.inside("/run")} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(root, path)
			brinks := strings.Contains(d.Name(), "brink")
			if name == "var/lib/kubelet/device-plugins/kubelet.sock" && isWhiteout(d) {
				// A stale socket of the machine's, which every kubelet
				// replaces and this one took away.
				return nil
			}
			if d.IsDir() && (!brinks || name == "etc/brink") || slices.Contains(ours, name) {
				return nil
			}
			found = append(found, "file "+path)
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// isWhiteout tells the character device by which overlayfs keeps a removal.
func isWhiteout(d fs.DirEntry) bool {
	return d.Type()&fs.ModeCharDevice != 0
}

// trace is how the processes and cgroups of a machine are known: by ids that
// this run made.
type trace struct {
	ID       string `json:"id"`
	Dir      string `json:"dir"`
	Data     string `json:"data"`
	Run      string `json:"run"`
	MountNS  string `json:"mountNS"`
	CgroupFS string `json:"cgroupFS"`
}

func (m *machine) trace() trace {
	t := trace{ID: m.id, Dir: m.dir, Data: m.data, Run: m.layout().Run(), CgroupFS: cgroupFS}
	if m.holder != nil {
		t.MountNS, _ = os.Readlink(m.holder.proc("ns/mnt"))
	}
	return t
}

// processes lists brink, its shims and what runs in its pods, and the holder.
func (t trace) processes() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && t.owns(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (t trace) owns(pid int) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	if mnt, err := os.Readlink(proc + "ns/mnt"); err == nil && mnt == t.MountNS {
		return true
	}
	cgroup, _ := os.ReadFile(proc + "cgroup")
	if strings.Contains(string(cgroup), ":/"+t.ID) {
		return true
	}
	cwd, _ := os.Readlink(proc + "cwd")
	exe, _ := os.Readlink(proc + "exe")
	cmdline, _ := os.ReadFile(proc + "cmdline")
	for _, text := range []string{cwd, exe, string(cmdline)} {
		if strings.Contains(text, t.Data+"/") || strings.Contains(text, t.Run+"/") {
			return true
		}
	}
	return false
}

// cgroups lists the machine's cgroups, children before parents.
func (t trace) cgroups() []string {
	roots, _ := filepath.Glob(filepath.Join(t.CgroupFS, "*", t.ID))
	roots = append(roots, filepath.Join(t.CgroupFS, t.ID))
	var dirs []string
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// erase ends and removes everything that the trace leads to.
func (t trace) erase() error {
	deadline := time.Now().Add(time.Minute)
	for pids := t.processes(); len(pids) > 0; pids = t.processes() {
		if time.Now().After(deadline) {
			return fmt.Errorf("machine %s: processes %v do not end", t.ID, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, dir := range t.cgroups() {
		for os.Remove(dir) != nil && time.Now().Before(deadline) {
			if _, err := os.Stat(dir); err != nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return os.RemoveAll(t.Dir)
}

// destroy removes the machine, whatever state it is in.
func (m *machine) destroy() error {
	m.saveLogs()
	if m.holder != nil {
		// Mounts of a data directory (a loop device) go with the namespace,
		// which ends with its last process.
		_ = m.holder.cmd.Process.Kill()
	}
	err := m.trace().erase()
	if m.holder != nil {
		m.holder.close()
	}
	return errors.Join(err, theJanitor.forget(m))
}

// saveLogs keeps brink's output where the user wants it.
func (m *machine) saveLogs() {
	dir := os.Getenv("BRINK_E2E_LOGS")
	logs, _ := filepath.Glob(filepath.Join(m.dir, "brink.*"))
	if dir == "" || len(logs) == 0 {
		return
	}
	dir = filepath.Join(dir, m.id)
	_ = os.MkdirAll(dir, 0o755)
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			_ = os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o644)
		}
	}
}

// janitor is a process that survives this one's end, however it ends, and then
// erases the machines that this one did not.
type janitor struct {
	cmd   *exec.Cmd
	mu    sync.Mutex // one trace is written at a time
	stdin io.WriteCloser
}

var theJanitor janitor

// janitorEnv makes the test binary the janitor of the directory that it names.
const janitorEnv = "BRINK_E2E_JANITOR"

// start begins a session of its own, so that ^C at the terminal spares it.
func (j *janitor) start(dir string) (err error) {
	j.cmd = exec.Command("/proc/self/exe")
	j.cmd.Env = append(os.Environ(), janitorEnv+"="+dir)
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if j.stdin, err = j.cmd.StdinPipe(); err != nil {
		return err
	}
	return j.cmd.Start()
}

func (j *janitor) stop() {
	_ = j.stdin.Close()
	_ = j.cmd.Wait()
}

func (j *janitor) add(m *machine) error { return j.tell(m.trace()) }

func (j *janitor) forget(m *machine) error { return j.tell(trace{ID: m.id}) }

func (j *janitor) tell(t trace) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return json.NewEncoder(j.stdin).Encode(t)
}

// runJanitor reads traces until the tests are gone. One without a directory
// means that its machine is.
func runJanitor(dir string) {
	machines := map[string]trace{}
	for in := json.NewDecoder(bufio.NewReader(os.Stdin)); ; {
		var t trace
		if in.Decode(&t) != nil {
			break
		}
		machines[t.ID] = t
		if t.Dir == "" {
			delete(machines, t.ID)
		}
	}
	for _, t := range machines {
		_ = t.erase()
	}
	_ = os.RemoveAll(dir)
}

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

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

// heldTrace is a machine whose mount namespace the janitor keeps.
type heldTrace struct {
	trace
	namespace *os.File
}

// runJanitor reads traces until the tests are gone. One without a directory
// means that its machine is.
func runJanitor(dir string) {
	machines := map[string]heldTrace{}
	for in := json.NewDecoder(bufio.NewReader(os.Stdin)); ; {
		var t trace
		if in.Decode(&t) != nil {
			break
		}
		_ = machines[t.ID].namespace.Close() // of a nil file it does nothing
		delete(machines, t.ID)
		if t.Dir != "" {
			machines[t.ID] = heldTrace{t, t.hold()}
		}
	}
	for _, m := range machines {
		_ = m.erase()
	}
	_ = os.RemoveAll(dir)
}

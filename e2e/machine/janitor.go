package machine

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
)

// Janitor is a process that survives this one's end, however it ends, and then
// erases the machines that this one did not.
type Janitor struct {
	cmd   *exec.Cmd
	mu    sync.Mutex // one trace is written at a time
	stdin io.WriteCloser
}

// janitorEnv makes this program the janitor; it holds the directory that the janitor
// removes last.
const janitorEnv = "BRINK_E2E_JANITOR"

// StartJanitor starts this program again as its janitor, in a session of its own: ^C
// at the terminal spares it. Dir, if not empty, is removed at the very end.
func StartJanitor(dir string) (*Janitor, error) {
	j := &Janitor{cmd: exec.Command("/proc/self/exe")}
	j.cmd.Env = append(os.Environ(), janitorEnv+"="+dir)
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var err error
	if j.stdin, err = j.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	return j, j.cmd.Start()
}

// Close lets the janitor do what is left to do and waits for its end.
func (j *Janitor) Close() {
	_ = j.stdin.Close()
	_ = j.cmd.Wait()
}

// add tells the janitor of a machine, or of what has changed of it.
func (j *Janitor) add(m *Machine) error { return j.tell(m.trace()) }

// forget tells the janitor that a machine is gone.
func (j *Janitor) forget(m *Machine) error { return j.tell(trace{ID: m.ID}) }

func (j *Janitor) tell(t trace) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return json.NewEncoder(j.stdin).Encode(t)
}

// heldTrace is a machine whose mount namespace the janitor keeps.
type heldTrace struct {
	trace
	namespace *os.File
}

// RunJanitor reports whether this process is a janitor, which main must ask first:
// then its work is done and it must end.
func RunJanitor() bool {
	dir, is := os.LookupEnv(janitorEnv)
	if is {
		clean(dir, os.Stdin)
	}
	return is
}

// clean reads traces until their sender is gone, and erases what is left. A trace
// without a directory means that its machine is gone.
func clean(dir string, traces io.Reader) {
	machines := map[string]heldTrace{}
	for in := json.NewDecoder(bufio.NewReader(traces)); ; {
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
	if dir != "" {
		_ = os.RemoveAll(dir)
	}
}

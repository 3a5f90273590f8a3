package initsystem

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// openrcServices reads the scripts of services. OpenRC has no way to ask which program a
// service runs, and a script could compute it; those that install.sh writes and most
// others have plain lines command= and command_args=.
func (m machine) openrcServices(q Query) []Service {
	running := m.openrcServiceOf(q.PID)
	scripts, _ := filepath.Glob(filepath.Join(m.root, "etc/init.d/*"))
	var out []Service
	for _, path := range scripts {
		name := filepath.Base(path)
		vars := m.variables("etc/init.d/" + name)
		args := strings.Fields(valueOf(vars, "command_args"))
		// The last is install.sh's, see scripts/install.sh.
		env := slices.Concat(m.variables("etc/conf.d/"+name), vars, m.variables("etc/brink/"+name+".env"))
		isOurs := isBrink(valueOf(vars, "command")) && q.Uses(args, env)
		if isOurs || name == running {
			out = append(out, Service{Init: OpenRC, Name: name, IsDaemon: isDaemon(args) || name == running})
		}
	}
	return out
}

// openrcServiceOf returns the service whose supervisor has started a process: OpenRC
// gives its name to what it starts, and to what that starts.
func (m machine) openrcServiceOf(pid int) string {
	if pid == 0 {
		return ""
	}
	proc := "proc/" + strconv.Itoa(pid)
	_, rest, _ := strings.Cut(m.read(proc+"/status"), "\nPPid:")
	parent := strings.TrimSpace(rest[:max(0, strings.IndexByte(rest, '\n'))])
	if strings.TrimSpace(m.read("proc/"+parent+"/comm")) != "supervise-daemo" { // cut at 15 bytes
		return ""
	}
	return valueOf(strings.Split(m.read(proc+"/environ"), "\x00"), "RC_SVCNAME")
}

// valueOf returns the last value of a variable.
func valueOf(env []string, name string) string {
	for _, v := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

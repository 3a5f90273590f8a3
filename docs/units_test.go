package docs

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// shells are those that install.sh must be understood by. dash is Debian's sh.
var shells = [][]string{{"sh"}, {"bash", "--posix"}, {"busybox", "ash"}}

// TestUnits: a unit of systemd is what install.sh writes, in each shell, and leaves pods
// alone.
func TestUnits(t *testing.T) {
	t.Parallel()
	lines := map[string][]string{"brink-pods.service": {"ExecStop=/usr/local/bin/brink stop --pods --timeout 10s\n", "RemainAfterExit=yes\n"}}
	for name, command := range map[string]string{"brink.service": "server", "brink-agent.service": "agent"} {
		lines[name] = []string{
			"ExecStart=/usr/local/bin/brink " + command + "\n", "Type=notify\n", "KillMode=process\n", "Delegate=yes\n",
			"Restart=always\n", "LimitNOFILE=1048576\n", "WatchdogSec=",
		}
	}
	for name, wanted := range lines {
		text := readFile(t, "docs/"+name)
		for _, want := range wanted {
			if !strings.Contains(text, "\n"+want) {
				t.Errorf("%s has no line %q", name, want)
			}
		}
		for _, shell := range shells {
			if got := printed(t, shell, name); got != text {
				t.Errorf("INSTALL_BRINK_PRINT=%s %s scripts/install.sh >docs/%s would change it to\n%s", name, strings.Join(shell, " "), name, got)
			}
		}
	}
	if script := printed(t, shells[0], "brink-agent.openrc"); !strings.Contains(script, `command_args="agent"`) {
		t.Errorf("the service of OpenRC is\n%s", script)
	}
}

// printed is what install.sh writes of a service. A shell that is not here cannot differ.
func printed(t *testing.T, shell []string, name string) string {
	t.Helper()
	if _, err := exec.LookPath(shell[0]); err != nil {
		return readFile(t, "docs/"+name)
	}
	cmd := exec.CommandContext(t.Context(), shell[0], append(shell[1:], "../scripts/install.sh")...)
	cmd.Env = append(os.Environ(), "INSTALL_BRINK_PRINT="+name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v: %s", shell, err, out)
	}
	return string(out)
}

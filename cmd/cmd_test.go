package cmd

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/internal/testerror"
)

// withFlags runs f with what `brink server` makes of args.
func withFlags(t *testing.T, args []string, f func(c *cli.Context)) {
	t.Helper()
	withFlagsOf(t, serverFlags(), args, f)
}

// withFlagsOf is withFlags for a command with these flags.
func withFlagsOf(t *testing.T, flags []cli.Flag, args []string, f func(c *cli.Context)) {
	t.Helper()
	app := newApp(os.Exit)
	app.Commands = []*cli.Command{{Name: "command", Flags: flags, Action: func(c *cli.Context) error {
		if err := applyConfigFile(c, flags); err != nil {
			return err
		}
		f(c)
		return nil
	}}}
	// No configuration of the machine on which the test runs.
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := app.Run(append([]string{"brink", "command", "--config", config}, args...)); err != nil {
		t.Fatal(err)
	}
}

// stderrOf returns what f writes to standard error.
func stderrOf(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	before := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = before }()
	f()
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExitCode(t *testing.T) { // not parallel: standard error is the process's
	tests := []struct {
		name string
		err  error
		code int
		want string
	}{
		{"none", nil, 0, ""},
		{"one", errors.New("port taken"), 1, "brink: port taken\n"},
		{"several", errors.Join(errors.New("port taken"), nil, errors.New("disk full")), 1, "brink: port taken\nbrink: disk full\n"},
		{"newline at the end", errors.New("port taken\n"), 1, "brink: port taken\n"},
		{"with a code", cli.Exit("no such image", 3), 3, "brink: no such image\n"},
	}
	for _, tt := range tests {
		var code int
		got := stderrOf(t, func() { code = ExitCode(tt.err) })
		if code != tt.code || got != tt.want {
			t.Errorf("%s: got %d %q, want %d %q", tt.name, code, got, tt.code, tt.want)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args string
		want string
	}{
		{"--nonsense", "brink: flag provided but not defined: -nonsense; see brink --help"},
		{"server --nonsense", "brink server: flag provided but not defined: -nonsense; see brink server --help"},
		{"server --https-listen-port=high", `brink server: invalid value "high" for flag -https-listen-port`},
		{"server --data-dir", "brink server: flag needs an argument: -data-dir; see brink server --help"},
		{"server extra", `brink server takes no arguments, got "extra"`},
		{"agent extra", `brink agent takes no arguments, got "extra"`},
		{"status extra", `brink status takes no arguments, got "extra"`},
		{"version extra", `brink version takes no arguments, got "extra"`},
		{"uninstall extra", `brink uninstall takes no arguments, got "extra"`},
		{"token list extra", `brink token list takes no arguments, got "extra"`},
		{"images list extra", `brink images list takes no arguments, got "extra"`},
		{"status --nonsense", "brink status: flag provided but not defined: -nonsense; see brink status --help"},
		{"status -o yaml", "--output=yaml: must be text or json"},
		{"check --nonsense", "brink check: flag provided but not defined"},
		{"check server --token-file=x", "brink check server: flag provided but not defined: -token-file"},
		{"check agent --tls-san=x", "brink check agent: flag provided but not defined: -tls-san"},
		{"check nobody", `there is no command "check nobody"; see brink check --help`},
		{"stop extra", `brink stop takes no arguments, got "extra"`},
		{"stop --timeout=1s", "--timeout goes with --pods"},
		{"stop --pods --timeout=-1s", "--timeout goes with --pods and must be more than 0"},
		{"crictl ps -a", "there is no crictl in brink: use brink ctr"},
		{"images import --nonsense", "brink images import: flag provided but not defined: -nonsense; see brink images import --help"},
		{"images nonsense", `there is no command "images nonsense"; see brink images --help`},
		{"uninstall --nonsense", "brink uninstall: flag provided but not defined"},
		{"version --nonsense", "brink version: flag provided but not defined"},
		{"completion fish", "brink completion: name a shell: bash or zsh"},
		{"nonsense", `there is no command "nonsense"; see brink --help`},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			app := newApp(os.Exit)
			app.Writer, app.ErrWriter = &out, &out
			testerror.OneLine(t, app.Run(append([]string{"brink"}, strings.Fields(tt.args)...)), tt.want)
			if out.Len() > 0 {
				t.Errorf("beside the error this was printed:\n%s", out.String())
			}
		})
	}
}

func TestVersionFlag(t *testing.T) { // not parallel: standard error is the process's
	for _, flag := range []string{"--version", "-v"} {
		var code int
		stderr := stderrOf(t, func() { code = Run(t.Context(), []string{"brink", flag}, os.Exit) })
		if code != 0 || stderr != "" {
			t.Errorf("%s: exit code %d, %s", flag, code, stderr)
		}
	}
}

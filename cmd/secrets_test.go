package cmd

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/internal/testerror"
	"brink/internal/testprocess"
)

func TestDatastoreEndpoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const url = "postgres://brink:secret@192.0.2.9/brink"
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("endpoint", url+"\n")
	for _, tc := range []struct {
		args []string
		want string // of the error, "" for none
	}{
		{[]string{"--datastore-endpoint=" + url}, ""},
		{[]string{"--datastore-endpoint-file=" + file}, ""},
		{[]string{"--datastore-endpoint=" + url, "--datastore-endpoint-file=" + file}, "both given"},
		{[]string{"--datastore-endpoint-file=" + dir + "/none"}, "no such file"},
		{[]string{"--datastore-endpoint-file=" + write("empty", "\n")}, "is empty"},
		{[]string{"--datastore-endpoint-file=" + write("two", url+"\n"+url+"\n")}, "must be one line"},
	} {
		withFlags(t, append(plausible, tc.args...), func(c *cli.Context) {
			s, err := readServer(c)
			if tc.want != "" {
				testerror.OneLine(t, err, tc.want)
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("the password is in %q", err)
				}
				return
			}
			if err != nil || s.Server.DatastoreEndpoint != url {
				t.Errorf("%v: %q (%v)", tc.args, s.Server.DatastoreEndpoint, err)
			}
		})
	}
}

func TestCheckSecretFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const registries = "configs:\n  registry.example:\n    auth: {username: me, password: secret}\n"
	open, closed := write("open.yaml", "token: abc\n", 0o644), write("closed.yaml", "datastore-endpoint: mysql://u:secret@x\n", 0o600)
	for _, tc := range []struct {
		name, arg string
		want      string // of the one warning, "" for none
	}{
		{"closed", "--config=" + closed, ""},
		{"open", "--config=" + open, open + " has a secret in it (token) that others may read: chmod 600 " + open},
		{"open without a secret", "--config=" + write("plain.yaml", "node-name: a\n", 0o644), ""},
		{"the group's", "--config=" + write("group.yaml", "token: abc\n", 0o640), ""}, // root's
		{"token file", "--token-file=" + write("token", "abc", 0o604), "(token) that others may read"},
		{"endpoint file", "--datastore-endpoint-file=" + write("endpoint", "abc", 0o444), "(datastore-endpoint) that others may read"},
		{"closed token file", "--token-file=" + write("token2", "abc", 0o400), ""},
		{"no file", "--token-file=" + dir + "/none", ""},
		{"registries", "--private-registry=" + write("registries.yaml", registries, 0o644), "(passwords of registries) that others may read"},
		{"registries without passwords", "--private-registry=" + write("mirrors.yaml", "mirrors: {}\n", 0o644), ""},
	} {
		flags := allFlags()
		withFlagsOf(t, flags, []string{tc.arg}, func(c *cli.Context) {
			values, err := readConfigFile(c, flags)
			if err != nil && c.IsSet("config") {
				t.Fatal(err)
			}
			checks := checkSecretFiles(c, values)
			switch {
			case tc.want == "" && len(checks) != 0:
				t.Errorf("%s: %v", tc.name, checks)
			case tc.want != "" && (len(checks) != 1 || !strings.Contains(checks[0].String(), tc.want)):
				t.Errorf("%s: %v, want one with %q", tc.name, checks, tc.want)
			}
		})
	}
}

// TestSecretsAreHiddenFirst reads the order in which this test's binary, which
// links all that brink links, initialises its packages.
func TestSecretsAreHiddenFirst(t *testing.T) {
	t.Parallel()
	if testprocess.Argument() != "" {
		return
	}
	cmd := testprocess.Again(t, "child")
	cmd.Env = append(cmd.Env, "GODEBUG=inittrace=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var order []string
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "init "); ok {
			name, _, _ = strings.Cut(name, " ")
			order = append(order, name)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, name := range order {
		if name == "brink/internal/argsecrets" {
			t.Logf("%d packages come before, %d after", i, len(order)-i-1)
			return
		}
		if name != "runtime" && !strings.HasPrefix(name, "internal/") { // what the runtime itself needs
			t.Fatalf("%s is initialised before the secrets are hidden; the order is %q", name, order[:i+1])
		}
	}
	t.Errorf("among %d packages there is none that hides secrets", len(order))
}

package argsecrets

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"brink/internal/testprocess"
)

// writable returns copies that do not lie in read-only memory, as arguments do not.
func writable(args []string) []string {
	var out []string
	for _, arg := range args {
		out = append(out, copyOf(arg))
	}
	return out
}

func TestHideArgs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ given, shown string }{
		{"brink", "brink"},
		{"brink agent --server https://x --token secret", "brink agent --server https://x --token ******"},
		{"brink agent --token=secret -d /x", "brink agent --token=****** -d /x"},
		{"brink agent -token secret", "brink agent -token ******"},
		{"brink agent -t secret", "brink agent -t ******"},
		{"brink agent --t=secret", "brink agent --t=******"},
		{"brink agent -t", "brink agent -t"},
		{"brink agent --token-file secret", "brink agent --token-file secret"},
		{"brink agent --token a --token b", "brink agent --token * --token *"},
		{"brink agent --token --server", "brink agent --token ********"},
		{"brink check --datastore-endpoint mysql://u:p@x", "brink check --datastore-endpoint *************"},
		{"brink server --datastore-endpoint=a=b", "brink server --datastore-endpoint=***"},
		{"brink server --datastore-endpoint-file=a", "brink server --datastore-endpoint-file=a"},
		{"brink kubectl exec -t pod -- sh", "brink kubectl exec -t pod -- sh"},
		{"brink kubectl --token=secret get pods", "brink kubectl --token=****** get pods"},
		{"brink token create", "brink token create"},
		{"brink token delete abc", "brink token delete abc"},
		{"brink agent - -- --- token", "brink agent - -- --- token"},
	} {
		args := writable(strings.Fields(tc.given))
		kept := hideArgs(args)
		if shown := strings.Join(args, " "); shown != tc.shown {
			t.Errorf("%s is shown as %s, want %s", tc.given, shown, tc.shown)
		}
		if !slices.Equal(kept, strings.Fields(tc.given)) {
			t.Errorf("%s is read as %q", tc.given, kept)
		}
	}
}

func TestHideEnvironment(t *testing.T) {
	t.Parallel()
	args := []string{"brink", "agent", ""}
	envs := []string{"PATH=/bin", "BRINK_TOKEN=secret", "BRINK_TOKEN_FILE=/x", "BRINK_DATASTORE_ENDPOINT=mysql://u:p@x?a=b", "", "TOKEN=y"}
	all := slices.Concat(args, envs)
	block := []byte(strings.Join(all, "\x00") + "\x00") // as execve(2) lays it out
	for i, start := 0, 0; i < len(args); i++ {
		if args[i] != "" {
			args[i] = unsafe.String(&block[start], len(args[i]))
		}
		start += len(args[i]) + 1
	}
	kept := hideEnvironment(args, envs)
	want := "brink\x00agent\x00\x00PATH=/bin\x00BRINK_TOKEN=******\x00BRINK_TOKEN_FILE=/x\x00BRINK_DATASTORE_ENDPOINT=*****************\x00\x00TOKEN=y\x00"
	if string(block) != want {
		t.Errorf("shown is %q, want %q", block, want)
	}
	if len(kept) != 2 || kept["BRINK_TOKEN"] != "secret" || kept["BRINK_DATASTORE_ENDPOINT"] != "mysql://u:p@x?a=b" {
		t.Errorf("kept is %q", kept)
	}
	if kept := hideEnvironment(args, []string{"PATH=/sbin", "BRINK_TOKEN=secret"}); len(kept) != 0 {
		t.Errorf("of an environment that lies elsewhere %q is kept", kept)
	}
}

// TestProcess looks at what the kernel shows of a process that was given secrets,
// and at what that process reads.
func TestProcess(t *testing.T) {
	if testprocess.Argument() != "" {
		cmdline, err := os.ReadFile("/proc/self/cmdline")
		environ, err2 := os.ReadFile("/proc/self/environ")
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if shown := string(cmdline) + string(environ); strings.Contains(shown, "xyzzy") || !strings.Contains(shown, "BRINK_TOKEN=*****\x00") {
			t.Errorf("the kernel shows %q", cmdline)
		}
		args, err := Restore(os.Setenv)
		if err != nil || os.Getenv("BRINK_TOKEN") != "xyzzy" {
			t.Errorf("the environment has %q (%v)", os.Getenv("BRINK_TOKEN"), err)
		}
		if !slices.Contains(args, "--token=xyzzy") {
			t.Errorf("the arguments are %q", args)
		}
		return
	}
	cmd := testprocess.Again(t, "child")
	cmd.Args = append(cmd.Args, "--", "--token=xyzzy")
	cmd.Env = append(cmd.Env, "BRINK_TOKEN=xyzzy")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

package upstream

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"brink/internal/testprocess"
)

// TestDropInherited starts the test's binary under a umask that shuts everybody out,
// with few files, and ignoring signals.
func TestDropInherited(t *testing.T) {
	if testprocess.Argument() != "" {
		dropInherited()
		if got := syscall.Umask(0); got != umask {
			t.Errorf("the umask is %03o", got)
		}
		out, err := exec.Command("sh", "-c", "grep SigIgn: /proc/self/status; ulimit -S -n; ulimit -H -n").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		said := strings.Fields(string(out))
		if len(said) != 4 {
			t.Fatalf("what is started says %q", said)
		}
		ignored, err := strconv.ParseUint(said[1], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGTERM} {
			if ignored&(1<<(s-1)) != 0 {
				t.Errorf("what is started ignores the signal %q", s)
			}
		}
		// A user who may not raise it has at least all that is given.
		if said[2] != said[3] || testprocess.Argument() == "may raise" && said[3] != fmt.Sprint(openFiles) {
			t.Errorf("what is started may open %s files, and %s if it asks", said[2], said[3])
		}
		return
	}
	argument := "may not raise"
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: openFiles, Max: openFiles}) == nil {
		argument = "may raise"
	}
	again := testprocess.Again(t, argument)
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `umask 077; ulimit -S -n 256; trap "" HUP INT QUIT PIPE TERM; exec "$@"`, "sh"}, again.Args...)...)
	cmd.Env = again.Env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestReaderOfLogGoes: a process goes on when the reader of its output has gone.
func TestReaderOfLogGoes(t *testing.T) {
	if testprocess.Argument() != "" {
		Set(Options{Exit: os.Exit})
		fmt.Println("begun")
		for range 3 {
			time.Sleep(100 * time.Millisecond)
			fmt.Fprintln(os.Stderr, "a line")
			fmt.Println("a line")
		}
		os.Exit(7) // not what a signal gives, and not what a passed test gives
	}
	cmd := testprocess.Again(t, "child")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	for lines := bufio.NewScanner(read); lines.Scan() && lines.Text() != "begun"; {
	}
	read.Close()
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}

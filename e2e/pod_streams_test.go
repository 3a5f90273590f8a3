package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	r := ns.kubectlResult("a line\n", "exec", "-i", "box", "--", "sh", "-c", "read x; echo got $x; echo bad >&2; exit 7")
	if r.Code != 7 || r.Stdout != "got a line\n" || !strings.HasPrefix(r.Stderr, "bad\n") {
		t.Errorf("exec: %v", r)
	}
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	back := ns.kubectlFor(string(big), "exec", "-i", "box", "--", "cat")
	if back != string(big) {
		t.Errorf("%d random bytes through exec came back as %d others", len(big), len(back))
	}
}

// terminal is the master side of a pseudo terminal, as a terminal emulator has it.
type terminal struct {
	master *os.File
	out    *output
}

// openTerminal starts cmd on a new terminal of a size.
func openTerminal(t *testing.T, cmd *exec.Cmd, rows, cols uint16) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slave.Close() }()
	term := &terminal{master: master, out: &output{}}
	term.resize(t, rows, cols)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	// A controlling terminal: only then does a new size raise SIGWINCH.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(term.out, master) }()
	return term
}

func (term *terminal) resize(t *testing.T, rows, cols uint16) {
	t.Helper()
	size := &unix.Winsize{Row: rows, Col: cols}
	if err := unix.IoctlSetWinsize(int(term.master.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
}

func (term *terminal) typeLine(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(term.master, line+"\n"); err != nil {
		t.Fatal(err)
	}
}

func TestExecTerminal(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	cmd, _ := ns.background("exec", "-it", "box", "--", "sh")
	term := openTerminal(t, cmd, 41, 123)
	term.typeLine(t, "tty; stty size")
	ns.eventually("a terminal in the container", func() error { return term.out.has("/dev/pts/") })
	// The first size follows the start of the command.
	ns.eventually("the terminal's size", func() error { return term.asks(t, "41 123") })
	term.resize(t, 17, 99)
	ns.eventually("its new size", func() error { return term.asks(t, "17 99") })

	term.typeLine(t, "exit 3")
	_ = ns.ended(cmd, term.out)
	ns.mustEqual("the exit code", cmd.ProcessState.ExitCode(), 3)
}

// asks types stty size once more and looks for an answer.
func (term *terminal) asks(t *testing.T, size string) error {
	t.Helper()
	term.typeLine(t, "stty size")
	return term.out.has(size + "\r\n")
}

const counter = `
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  volumes: [{name: work, emptyDir: {}}]
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "echo begin; until [ -e /work/go ]; do sleep 0.2; done; echo middle; until [ -e /work/end ]; do sleep 0.2; done; echo end"]
    volumeMounts: [{name: work, mountPath: /work}]
`

func TestLogs(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(counter)
	ns.readyPod("counter")
	cmd, out := ns.background("logs", "--follow", "counter")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ns.eventually("the first line", func() error { return out.has("begin\n") })
	ns.exec("counter", "touch", "/work/go")
	ns.eventually("a line written while following", func() error { return out.has("middle\n") })
	ns.exec("counter", "touch", "/work/end")
	if err := ns.ended(cmd, out); err != nil {
		t.Errorf("logs -f did not end well with the container: %v", err)
	}
	ns.mustEqual("all that was followed", out.String(), "begin\nmiddle\nend\n")
	ns.mustEqual("logs --tail=1", ns.logs("counter", "--tail=1"), "end")
}

const restarting = `
apiVersion: v1
kind: Pod
metadata: {name: restarting}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: work, emptyDir: {}}]
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "if [ -e /work/second ]; then echo second life; exec sleep 100000; fi; touch /work/second; echo first life; exit 1"]
    volumeMounts: [{name: work, mountPath: /work}]
`

func TestPreviousLogs(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(restarting)
	ns.eventually("the second life", func() error {
		out, err := ns.tryKubectl("logs", "restarting")
		if err == nil && out != "second life\n" {
			err = fmt.Errorf("the log is %q", out)
		}
		return err
	})
	ns.mustEqual("logs --previous", ns.logs("restarting", "--previous"), "first life")
}

const reader = `
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: e2e.local/busybox:1
    stdin: true
    stdinOnce: true
    command: [sh, -c, "while read line; do echo got $line; done; echo end of input"]
`

func TestAttach(t *testing.T) {
	sharedNamespace(t).attaches(reader)
}

// attaches to the reader, writes and reads.
func (ns *namespace) attaches(manifest string) {
	t := ns.T
	t.Helper()
	ns.apply(manifest)
	ns.readyPod("reader")
	cmd, out := ns.background("attach", "-i", "reader")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stdin, "one\n"); err != nil {
		t.Fatal(err)
	}
	ns.eventually("an answer", func() error { return out.has("got one\n") })
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	ns.finishedPod("reader")
	_ = ns.ended(cmd, out)
	ns.mustEqual("the container's log", ns.logs("reader"), "got one\nend of input")
}

func TestPortForward(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(testdata(t, "web.yaml"))
	pod := ns.readyPods("app=web", 2)[0]
	for _, tc := range []struct{ target, port, want string }{
		{"pod/" + pod.Name, "28180:8080", pod.Name},
		{"service/web", "28181:80", "web-"},
	} {
		cmd, out := ns.background("port-forward", tc.target, tc.port)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ns.eventually("port-forward to listen", func() error { return out.has("Forwarding from 127.0.0.1") })
		local, _, _ := strings.Cut(tc.port, ":")
		for range 3 { // it goes on after a connection has ended
			ns.mustContain(ns.get("http://127.0.0.1:"+local+"/hostname"), tc.want)
		}
		_ = cmd.Process.Signal(os.Interrupt)
		_ = ns.ended(cmd, out)
	}
}

func TestCopy(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	want := make([]byte, 1<<20)
	_, _ = rand.Read(want)
	from := filepath.Join(ns.node.Dir, ns.name+"-from")
	back := filepath.Join(ns.node.Dir, ns.name+"-back")
	if err := os.Mkdir(from, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "file"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	ns.kubectl("cp", from, "box:/tmp/there")
	ns.kubectl("cp", "box:/tmp/there", back)
	got, err := os.ReadFile(filepath.Join(back, "file"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("a megabyte came back as %d bytes: %v", len(got), err)
	}
}

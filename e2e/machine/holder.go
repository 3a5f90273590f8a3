package machine

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Holder is a process that keeps namespaces alive. It ends when its standard input
// does, and so never outlives the program that started it.
type Holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// HoldNetwork makes a network namespace and sets it up with a shell script, which
// sees env in addition to this program's environment.
func HoldNetwork(script string, env ...string) (*Holder, error) {
	return hold([]string{"--net"}, script, env)
}

// HoldMounts makes a mount namespace and sets it up with a shell script.
func HoldMounts(script string, env ...string) (*Holder, error) {
	return hold([]string{"--mount"}, script, env)
}

// hold makes namespaces, given as options of unshare(1).
func hold(namespaces []string, script string, env []string) (*Holder, error) {
	script += "\nip link set lo up\necho ready\nexec cat"
	cmd := exec.Command("unshare", append(namespaces, "--", "sh", "-ec", script)...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &Holder{cmd: cmd, stdin: stdin}
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		h.Close()
		return nil, fmt.Errorf("setting up namespaces: %v: %s%s", cmd.ProcessState, line, stderr.String())
	}
	return h, nil
}

// PID is the holder's process id on the host.
func (h *Holder) PID() int { return h.cmd.Process.Pid }

// Netns is the holder's network namespace.
func (h *Holder) Netns() Netns { return NetnsOf(h.PID()) }

// Proc is the path of a file of the holder's in /proc.
func (h *Holder) Proc(file string) string { return fmt.Sprintf("/proc/%d/%s", h.PID(), file) }

// Command is a command in the holder's namespaces. nsenter becomes the command, so
// signals and the process id are the command's own.
func (h *Holder) Command(ctx context.Context, argv ...string) *exec.Cmd {
	args := append([]string{"--target", strconv.Itoa(h.PID()), "--net", "--mount", "--uts", "--"}, argv...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// Run runs a command in the holder's namespaces to its end.
func (h *Holder) Run(argv ...string) error {
	return output(h.Command(context.Background(), argv...), strings.Join(argv, " "))
}

// Script runs shell commands in the holder's namespaces, which see env in addition
// to this program's environment. The first that fails ends the script.
func (h *Holder) Script(commands string, env ...string) error {
	cmd := h.Command(context.Background(), "sh", "-ec", commands)
	cmd.Env = append(os.Environ(), env...)
	return output(cmd, commands)
}

// output runs cmd; its error has what the command wrote.
func output(cmd *exec.Cmd, what string) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", what, err, bytes.TrimSpace(out))
	}
	return nil
}

// Close ends the holder. The namespaces end with it, unless another process is in
// them.
func (h *Holder) Close() {
	_ = h.stdin.Close()
	_ = h.cmd.Wait()
}

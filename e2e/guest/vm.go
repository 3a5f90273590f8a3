package guest

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brink/e2e/machine"
)

// virtual is a guest with a kernel of its own: what differs from a container. Its disk
// is an image, its network link the end of a tap on the bridge, and commands go to it
// over a serial line.
type virtual struct {
	// argv starts it; line is what it needs for the serial line.
	argv func(s *system, root string) (argv []string, err error)
	line func(s *system, cmd *exec.Cmd) (dial func() (io.ReadWriteCloser, error), err error)
	// megabytes of its disk.
	disk int
}

// makeDisk makes the image: the root and what configure writes.
func (v *virtual) makeDisk(s *system, root string) error {
	s.root = root
	changes := filepath.Join(s.dir, "changes")
	for name, content := range s.files() {
		file := filepath.Join(changes, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644)); err != nil {
			return err
		}
	}
	s.changes = changes
	return nil
}

// bootDisk puts the disk together at the first boot, when all changes are known.
func (v *virtual) bootDisk(s *system) error {
	image := filepath.Join(s.dir, "disk")
	if _, err := os.Stat(image); err == nil {
		return nil
	}
	whole, err := machine.HoldMounts(`mount --make-rprivate /
cd "$DIR"
mkdir whole work
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=changes,workdir=work" whole
truncate -s "${SIZE}M" disk
mkfs.ext4 -q -F -d whole disk`, "DIR="+s.dir, "LOWER="+s.root, "SIZE="+strconv.Itoa(v.disk))
	if err != nil {
		return err
	}
	whole.Close()
	return nil
}

// start begins the machine in its cgroups and network and connects the serial line.
func (v *virtual) start(s *system, cgroups []string, console *os.File) error {
	if err := v.bootDisk(s); err != nil {
		return err
	}
	tap := "t" + strings.TrimPrefix(s.id, "brink-guest-")
	if err := s.net.holder.Run("sh", "-ec", "ip link show "+tap+" >/dev/null 2>&1 || ip tuntap add dev "+tap+" mode tap; ip link set "+tap+" master br0 up"); err != nil {
		return err
	}
	argv, err := v.argv(s, s.root)
	if err != nil {
		return err
	}
	cmd := exec.Command("nsenter", append([]string{"--net=" + string(s.net.Netns()), "--", "sh", "-ec",
		`for dir in $CGROUPS; do echo $$ >"$dir/cgroup.procs"; done; exec "$@"`, "begin"}, argv...)...)
	cmd.Env = append(os.Environ(), "CGROUPS="+strings.Join(cgroups, " "), "TMPDIR=/dev/shm") // where User-mode Linux has its memory
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dial, err := v.line(s, cmd)
	if err != nil {
		return err
	}
	if err := s.launch(cmd); err != nil {
		return err
	}
	return s.connect(dial)
}

// patienceToBoot bounds a boot under an emulator.
const patienceToBoot = 10 * time.Minute

// connect waits until the shell at the other end of the line has said that it listens.
func (s *system) connect(dial func() (io.ReadWriteCloser, error)) error {
	deadline := time.Now().Add(patienceToBoot)
	for time.Now().Before(deadline) {
		line, err := dial()
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.line, s.answers = line, bufio.NewReaderSize(line, 1<<20)
		heard := make(chan error, 1)
		go func() { heard <- s.awaitWord("guest-shell") }()
		select {
		case err := <-heard:
			return err
		case <-s.ended:
			return fmt.Errorf("it ended: %v\n%s", s.process.ProcessState, machine.Tail(s.console(), 4<<10))
		case <-time.After(time.Until(deadline)):
		}
	}
	return fmt.Errorf("no shell answers after %v\n%s", patienceToBoot, machine.Tail(s.console(), 4<<10))
}

func (s *system) awaitWord(word string) error {
	for {
		text, err := s.answers.ReadString('\n')
		if err != nil || strings.TrimSpace(text) == word {
			return err
		}
	}
}

// ask sends a script over the line and waits for the answer.
func (s *system) ask(ctx context.Context, script string) (machine.Result, error) {
	if _, err := fmt.Fprintf(s.line, "%s\n", base64.StdEncoding.EncodeToString([]byte(script))); err != nil {
		return machine.Result{Code: -1}, err
	}
	type answer struct {
		machine.Result
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		r, err := s.answer()
		answers <- answer{r, err}
	}()
	select {
	case a := <-answers:
		if errors.Is(a.err, io.EOF) {
			<-s.ended // the line's other end goes first
			return a.Result, nil
		}
		return a.Result, a.err
	case <-s.ended:
		return machine.Result{Code: -1}, nil // killed by what it asked for
	case <-ctx.Done():
		return machine.Result{Code: -1}, ctx.Err()
	}
}

func (s *system) answer() (r machine.Result, err error) {
	for {
		text, err := s.answers.ReadString('\n')
		if err != nil {
			return machine.Result{Code: -1}, err
		}
		words, is := strings.CutPrefix(strings.TrimSpace(text), "guest-answer ")
		if !is {
			continue // of the program on the line before it
		}
		fields := strings.Split(strings.TrimSuffix(words, "."), " ")
		if len(fields) != 3 {
			return machine.Result{Code: -1}, fmt.Errorf("the guest's shell answers %q", text)
		}
		code, err1 := strconv.Atoi(fields[0])
		stdout, err2 := base64.StdEncoding.DecodeString(fields[1])
		stderr, err3 := base64.StdEncoding.DecodeString(fields[2])
		return machine.Result{Code: code, Stdout: string(stdout), Stderr: string(stderr)}, errors.Join(err1, err2, err3)
	}
}

// script is a command with its input, as a shell runs it.
func script(stdin string, argv []string) string {
	words := []string{"env"}
	for _, word := range argv {
		words = append(words, "'"+strings.ReplaceAll(word, "'", `'\''`)+"'")
	}
	line := strings.Join(words, " ")
	if stdin != "" {
		line = "echo " + base64.StdEncoding.EncodeToString([]byte(stdin)) + " | base64 -d | " + line
	}
	return line
}

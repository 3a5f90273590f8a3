package guest

import (
	"crypto/sha256"
	_ "embed" // how the kernel is made
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// UML is Systemd on a kernel of its own, which runs as a program: it has cgroups of
// version 2, whatever the machine has. One processor, and all is two to ten times
// slower.
var UML = func() Recipe {
	r := Systemd
	r.virtual = &virtual{argv: umlCommand, line: umlLine, disk: 3000}
	return r
}()

//go:embed uml-kernel.sh
var umlBuild string

//go:embed uml.config
var umlConfig string

// umlKernel is the kernel, which is built when there is none.
func umlKernel() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(umlBuild + umlConfig))
	kernel := filepath.Join(cache, fmt.Sprintf("uml-%x", sum[:6]))
	unlock, err := lock(kernel + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(kernel); !errors.Is(err, fs.ErrNotExist) {
		return kernel, errors.Join(err, os.Chtimes(kernel, time.Now(), time.Now())) // see prune
	}
	config := filepath.Join(Scratch(), "uml.config")
	if err := os.WriteFile(config, []byte(umlConfig), 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("nice", "sh", "-c", umlBuild)
	cmd.Env = append(os.Environ(), "OUT="+kernel, "CONFIG="+config, "WORK="+filepath.Join(Scratch(), "linux"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building a User-mode Linux: %w: %s", err, out)
	}
	return kernel, nil
}

func umlCommand(s *system, _ string) ([]string, error) {
	kernel, err := umlKernel()
	memory := 2048
	if s.limits.Memory != 0 {
		memory = s.limits.Memory >> 20
	}
	return []string{kernel, "ubd0=" + filepath.Join(s.dir, "disk"), "root=/dev/ubda", "rw", fmt.Sprintf("mem=%dM", memory),
		"con0=null,fd:1", "con=null", "ssl=null", "ssl0=fd:3", "noreboot", "quiet", "console=tty0",
		"vec0:transport=tap,ifname=t" + s.id[len("brink-guest-"):] + ",depth=128,gro=1"}, err
}

// umlLine is a socket that the kernel is given as its first serial line.
func umlLine(_ *system, cmd *exec.Cmd) (func() (io.ReadWriteCloser, error), error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "line"), os.NewFile(uintptr(fds[1]), "line")
	cmd.ExtraFiles = []*os.File{theirs}
	return func() (io.ReadWriteCloser, error) { return ours, nil }, nil
}

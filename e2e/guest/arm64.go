package guest

import (
	_ "embed" // the script that finishes the root
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ARM64 is a Debian 12 for arm64 with Debian's kernel, emulated down to the processor:
// cgroups of version 2, two processors, and all is thirty times slower.
var ARM64 = Recipe{
	Name: "arm64",
	Packages: append([]string{"base-files", "base-passwd", "bash", "dash", "coreutils", "util-linux", "mount", "login", "passwd", "sed", "grep",
		"gzip", "tar", "findutils", "hostname", "debianutils", "mawk", "libc-bin", "linux-image-arm64", "busybox-static"}, Systemd.Packages...),
	Setup:        setupSystemd + setupARM64,
	Up:           Systemd.Up,
	architecture: "arm64",
	virtual:      &virtual{argv: arm64Command, line: arm64Line, disk: 4000},
}

//go:embed setup-arm64.sh
var setupARM64 string

// arm64Command leaves out the processor's pointer authentication in its default form,
// which costs the emulator much.
func arm64Command(s *system, root string) ([]string, error) {
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return nil, fmt.Errorf("the root has the kernels %v, %v", kernels, err)
	}
	mac := "02:00:00:" + s.id[len(s.id)-6:len(s.id)-4] + ":" + s.id[len(s.id)-4:len(s.id)-2] + ":" + s.id[len(s.id)-2:]
	argv := strings.Fields("qemu-system-aarch64 -M virt -cpu max,pauth-impdef=on -smp 2 -m 2048 -nographic -no-reboot -kernel " + kernels[0] +
		" -initrd " + filepath.Join(root, "boot", "early.gz") + " " +
		" -drive if=none,file=" + filepath.Join(s.dir, "disk") + ",format=raw,id=d0,cache=unsafe -device virtio-blk-pci,drive=d0" +
		" -netdev tap,id=n0,ifname=t" + s.id[len("brink-guest-"):] + ",script=no,downscript=no -device virtio-net-pci,netdev=n0,romfile=,mac=" + mac +
		" -chardev socket,id=c0,path=" + filepath.Join(s.dir, "line") + ",server=on,wait=off" +
		" -device virtio-serial-pci -device virtserialport,chardev=c0,name=guest.shell")
	return append(argv, "-append", "console=ttyAMA0 quiet"), nil
}

// arm64Line is a socket that the emulator makes.
func arm64Line(s *system, _ *exec.Cmd) (func() (io.ReadWriteCloser, error), error) {
	path := filepath.Join(s.dir, "line")
	if err := os.RemoveAll(path); err != nil {
		return nil, err
	}
	return func() (io.ReadWriteCloser, error) { return net.Dial("unix", path) }, nil
}

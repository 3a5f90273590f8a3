package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/initsystem"
	"brink/internal/sleep"
)

// watcherService is the service of the watcher. It exists while an upgrade is under way.
type watcherService struct {
	service initsystem.Service // brink's own
	program string
	dataDir string

	root string // "/", but in tests
	run  func(ctx context.Context, name string, args ...string) (string, error)
}

// name is that of the watcher's service: brink-upgrade for brink.
func (w watcherService) name() string {
	return strings.TrimSuffix(w.service.Name, ".service") + "-upgrade"
}

// file returns where the service is described.
func (w watcherService) file() string {
	if w.service.Init == initsystem.OpenRC {
		return filepath.Join(w.root, "etc/init.d", w.name())
	}
	return filepath.Join(w.root, "etc/systemd/system", w.name()+".service")
}

const unit = `# Written by brink upgrade, and removed when the upgrade has ended.
[Unit]
Description=brings the upgrade of %[1]s to its end, and the version before back if the new one fails
After=network.target

[Service]
Type=simple
ExecStart=%[2]s upgrade --continue --data-dir %[3]s
Restart=on-failure
RestartSec=10s

[Install]
WantedBy=multi-user.target
`

const initScript = `#!/sbin/openrc-run
# Written by brink upgrade, and removed when the upgrade has ended.
description="brings the upgrade of %[1]s to its end, and the version before back if the new one fails"
supervisor=supervise-daemon
command=%[2]s
command_args="upgrade --continue --data-dir %[3]s"
output_log="/var/log/%[4]s.log"
error_log="/var/log/%[4]s.log"
respawn_delay=10
respawn_max=0
pidfile="/run/${RC_SVCNAME}.pid"

depend() {
	after firewall net
}
`

// start writes the service and starts it, at each boot too.
func (w watcherService) start(ctx context.Context) error {
	// The one of the upgrade before may be about to end.
	if err := w.launch(ctx, "restart"); err != nil {
		return errors.Join(err, w.remove(ctx, true))
	}
	return nil
}

// launch is start with the word for the service manager. It leaves what it has done.
func (w watcherService) launch(ctx context.Context, word string) error {
	if strings.ContainsAny(w.program+w.dataDir, " \t\n\"'\\%$") {
		return fmt.Errorf("%s or %s has characters in its name that a service cannot be given", w.program, w.dataDir)
	}
	text, mode := fmt.Sprintf(unit, w.service.Name, w.program, w.dataDir), fs.FileMode(0o644)
	commands := [][]string{{"systemctl", "daemon-reload"}, {"systemctl", "enable", "--quiet", w.name()}, {"systemctl", word, "--no-block", w.name()}}
	if w.service.Init == initsystem.OpenRC {
		text, mode = fmt.Sprintf(initScript, w.service.Name, w.program, w.dataDir, w.service.Name), 0o755
		commands = [][]string{{"rc-update", "--quiet", "add", w.name(), "default"}, {"rc-service", w.name(), word}}
	}
	if err := atomicfile.Write(w.file(), []byte(text), mode); err != nil {
		return err
	}
	for _, c := range commands {
		if _, err := w.run(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// remove takes the service away. The watcher that does it for itself goes on to its end: it is
// stopped by others only.
func (w watcherService) remove(ctx context.Context, stop bool) error {
	ctx = context.WithoutCancel(ctx) // half a removal would start it again; each command has its limit
	if _, err := os.Lstat(w.file()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var commands [][]string
	if w.service.Init == initsystem.OpenRC {
		commands = append(commands, []string{"rc-update", "--quiet", "--all", "del", w.name()})
		if stop {
			commands = append(commands, []string{"rc-service", w.name(), "stop"})
		}
	} else {
		if stop {
			commands = append(commands, []string{"systemctl", "stop", w.name()})
		}
		commands = append(commands, []string{"systemctl", "disable", "--quiet", w.name()})
	}
	var errs []error
	for _, c := range commands {
		_, err := w.run(ctx, c[0], c[1:]...)
		errs = append(errs, err)
	}
	if err := os.Remove(w.file()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if w.service.Init == initsystem.Systemd {
		_, err := w.run(ctx, "systemctl", "daemon-reload")
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// endUnderOpenRC leaves it to a process of its own to stop the service: supervise-daemon would
// start the watcher again, and ends it when it is told to stop.
func (w watcherService) endUnderOpenRC(ctx context.Context) error {
	if _, err := os.Lstat(w.file()); errors.Is(err, fs.ErrNotExist) {
		return remove(w.program) // run by hand
	}
	cmd := exec.Command("/bin/sh", "-c", `rc-update --quiet --all del "$1"; rc-service "$1" stop; rm -f "$2" "$3"`, "sh", w.name(), w.file(), w.program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	sleep.For(ctx, time.Minute) // this process is ended meanwhile
	return nil
}

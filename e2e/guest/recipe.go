package guest

import (
	"crypto/sha256"
	_ "embed" // the scripts that finish a root
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Recipe says what a root has in it.
type Recipe struct {
	// Name is also how the directory of the root begins.
	Name string
	// Packages are Debian's, beside what every root needs.
	Packages []string
	// Setup is a shell script that finishes the root; $ROOT is its directory.
	Setup string
	// Up is a shell command that succeeds in a guest that has booted.
	Up string

	// architecture is another than this machine's.
	architecture string
	// virtual is nil for a container.
	virtual *virtual
}

// always is what every root has: curl and certificates, as on any machine on which
// somebody types the line of the README, and what tests look at a guest with.
var always = []string{"iproute2", "curl", "ca-certificates", "procps", "kmod"}

//go:embed setup.sh
var setupAll string

//go:embed setup-systemd.sh
var setupSystemd string

//go:embed setup-openrc.sh
var setupOpenRC string

// Systemd is a Debian 12 with systemd, networkd, and nothing that a server does
// without: no nft, no /etc/protocols, no xz, no zstd.
var Systemd = Recipe{
	Name:     "systemd",
	Packages: []string{"systemd", "systemd-sysv", "dbus", "udev"},
	Setup:    setupSystemd,
	Up:       `case $(systemctl is-system-running) in running | degraded) ;; *) exit 1 ;; esac`,
}

// OpenRC is a Debian 12 with openrc under sysvinit.
var OpenRC = Recipe{
	Name:     "openrc",
	Packages: []string{"openrc", "sysvinit-core", "initscripts", "ifupdown"},
	Setup:    setupOpenRC,
	Up:       `[ "$(cat /run/openrc/softlevel)" = default ] && [ ! -e /run/openrc/rc.starting ]`,
}

// With is the recipe with more packages.
func (r Recipe) With(packages ...string) Recipe {
	r.Name += "-" + strings.Join(packages, "-")
	r.Packages = append(append([]string{}, r.Packages...), packages...)
	return r
}

// CacheEnv names the directory that roots and copies of guests lie in.
const CacheEnv = "BRINK_GUESTS"

// cacheDir is by default the user's, as that of the Go command is: a root serves all
// checkouts.
func cacheDir() (string, error) {
	dir := os.Getenv(CacheEnv)
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(user, "brink", "guests")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// prune removes what nobody has used for long: packed programs after a day, as every
// build has others, and roots and kernels after a month.
func prune(cache string) error {
	entries, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || strings.HasPrefix(e.Name(), "brink-guest-") {
			continue // gone, or somebody's guest
		}
		keep := 30 * 24 * time.Hour
		if strings.HasPrefix(e.Name(), "packed-") {
			keep = 24 * time.Hour
		}
		if time.Since(info.ModTime()) > keep {
			if err := os.RemoveAll(filepath.Join(cache, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r Recipe) packages() string {
	return strings.Join(append(append([]string{}, always...), r.Packages...), ",")
}

// key changes with everything that a root is made of.
func (r Recipe) key() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{r.packages(), setupAll, r.Setup}, "\x00")))
	return fmt.Sprintf("%s-%x", r.Name, sum[:6])
}

// Root is the directory of the recipe's root, which is made when there is none: that
// takes a minute and Debian's mirror. Guests are made from it and never change it.
func (r Recipe) Root() (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	root := filepath.Join(cache, r.key())
	unlock, err := lock(root + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		return root, errors.Join(err, os.Chtimes(root, time.Now(), time.Now())) // see prune
	}
	// Of one who was killed while making it.
	unfinished := root + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	if err := r.bake(unfinished); err != nil {
		return "", errors.Join(fmt.Errorf("making the root %s: %w", r.Name, err), os.RemoveAll(unfinished))
	}
	return root, os.Rename(unfinished, root)
}

func (r Recipe) bake(dir string) error {
	args := []string{"--quiet", "--variant=minbase", "--include=" + r.packages()}
	if r.architecture != "" {
		args = append(args, "--architecture="+r.architecture, "--variant=extract", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
	}
	cmd := exec.Command("mmdebstrap", append(args, "bookworm", dir)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", cmd, err, out)
	}
	setup := exec.Command("sh", "-euc", setupAll+r.Setup)
	setup.Env = append(os.Environ(), "ROOT="+dir)
	if out, err := setup.CombinedOutput(); err != nil {
		return fmt.Errorf("finishing it: %w: %s", err, out)
	}
	return nil
}

// lock waits until nobody else has the file locked.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// Package containerd runs containerd, which runs pods, as a component of this process.
//
// The words:
//
//   - The CRI (Container Runtime Interface) is the API by which the kubelet has
//     containerd run pods. It is a plugin of containerd.
//   - A sandbox is what the containers of a pod share, above all the network namespace. A
//     process of the pause image, which does nothing, keeps it in being.
//   - A shim is a process that watches over the containers of a pod. It starts them by
//     runc, a program that ends once a container runs.
//   - A snapshotter makes the file system of a container from the layers of its image.
//   - An image is pinned when the kubelet must not remove it to free disk space.
//
// Decisions:
//
//   - containerd's own server and plugins are used as they are, with their
//     configuration handed over in memory. Only the plugins a node needs are
//     linked, see plugins.go.
//   - Shims are processes of their own, in process groups of their own, and
//     nothing here stops them: pods outlive this process, however it ends, and
//     the next start finds them by what is in the state directory.
//   - Everything that containerd would put at fixed places (sockets of shims, runc's
//     state, network namespaces) goes below the state directory, so that several
//     nodes, and a containerd that is not brink's, can run on one machine. The
//     exception is /var/lib/cni, where the CNI library that containerd uses
//     keeps results, by sandbox id; it has no option for another place.
//   - Programs are named by absolute path: a runc on the host is never used.
//   - containerd's plugin registry, like its logger, belongs to the process: one
//     component at a time.
//   - How images come to a node, and what containerd keeps of them, is in package images.
//     This package may import that one, which must not import this one: it works against
//     any running containerd, also from a command.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/runtime/images"

	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
)

// Config is what the containerd component needs to know. All paths are
// absolute; directories are created.
type Config struct {
	// Layout says where everything is. Its ContainerdState holds what a reboot may take
	// away: sockets, mounts, runc's state. On a tmpfs it costs no flash wear.
	Layout layout.Layout
	// BinDir holds runc and containerd-shim-runc-v2.
	BinDir string
	// NFTDir holds an nft and no other program. With NFTFirst it is found before the
	// host's, otherwise after it: while an update of the host's package replaces it.
	NFTDir   string
	NFTFirst bool
	// PauseArchive is the OCI archive of PauseImage, the image of pods' sandboxes.
	PauseArchive, PauseImage string
	// CNIBinDir holds the CNI plugins. Their configuration, in CNIConf, may come
	// later: until then only pods on the host's network start.
	CNIBinDir string
	// ArchivesRead is closed when the archives that lay on the node at its start have been
	// read; pulls wait for that. Nil waits for nothing.
	ArchivesRead <-chan struct{} `json:"-"`
	// KeepPulls is for how long what a broken pull has fetched is kept when no pod is known
	// to want it. Zero is the usual time.
	KeepPulls time.Duration
	// RegistriesFile is in the format of k3s, see images.Registries. It need not exist.
	RegistriesFile string
	// Host describes the machine, on which some settings depend.
	Host host.Facts
	// SystemdCgroups lets runc make containers' control groups through systemd, as the
	// kubelet then makes those of pods.
	SystemdCgroups bool
	// Debug logs all that containerd reports, otherwise only warnings and errors.
	Debug bool
}

func (c Config) validate() error {
	var errs []error
	for name, path := range map[string]string{
		"BinDir": c.BinDir, "PauseArchive": c.PauseArchive, "CNIBinDir": c.CNIBinDir,
	} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("containerd: %s %q is not an absolute path", name, path))
		}
	}
	const digits = 64 // of a shim's socket
	if over := len(c.Layout.ShimSockets()) + len("/") + digits - layout.MaxSocket; over > 0 {
		state := c.Layout.ContainerdState()
		errs = append(errs, fmt.Errorf("containerd: state directory %s is longer than %d bytes, too long for its sockets", state, len(state)-over))
	}
	return errors.Join(errs...)
}

// component is the name of the component, also of what containerd logs.
const component = "containerd"

// stopTimeout is how long closing the databases may take: they wait for a garbage
// collection that is running on a slow card. Pods are not waited for.
const stopTimeout = 20 * time.Second

// New checks cfg and the registries file and returns the component
// "containerd". It is ready when its socket serves CRI requests and the sandbox
// image is there and protected from image garbage collection.
func New(cfg Config) (lifecycle.Component, error) {
	if err := cfg.validate(); err != nil {
		return lifecycle.Component{}, err
	}
	registries, err := images.ReadRegistries(cfg.RegistriesFile)
	if err != nil {
		return lifecycle.Component{}, err
	}
	s := &service{cfg: cfg, registries: registries}
	return lifecycle.Component{Name: component, Run: s.run, StopTimeout: stopTimeout}, nil
}

type service struct {
	cfg        Config
	registries images.Registries
}

// run is the life of the component: it prepares the machine, starts containerd, and
// waits until the CRI has all that pods need.
func (s *service) run(ctx context.Context, ready func()) error {
	started := time.Now()
	crashed := redirectLogs(s.cfg.Debug)
	setVersion()
	if err := s.cfg.setPath(); err != nil {
		return err
	}
	snapshotter := images.Snapshotter(ctx, s.cfg.Layout)
	if err := s.registries.WriteHosts(s.cfg.Layout.RegistryHosts()); err != nil {
		return err
	}
	settings := s.cfg.withLabels(ctx, selinuxContext).settings(snapshotter, s.registries.Auths())
	if err := markInUse(s.cfg.Layout); err != nil {
		return err
	}
	if err := prepare(ctx, s.cfg.Layout, settings); err != nil {
		return err
	}
	// Background work of the plugins ends with this context. Requests in progress do
	// not: Stop ends them.
	pluginCtx, cancel := context.WithCancel(log.WithLogger(s.cfg.withPulls(context.WithoutCancel(ctx)), log.L))
	defer cancel()
	srv, err := start(pluginCtx, s.cfg.Layout, settings)
	if err != nil {
		return err
	}
	defer func() {
		srv.Stop()
		markClosed(ctx, s.cfg.Layout)
	}()
	if err := waitReady(ctx, srv, crashed); err != nil {
		return err
	}
	if err := s.cfg.ensurePause(ctx, snapshotter, started); err != nil {
		return err
	}
	ready()
	select {
	case <-ctx.Done():
		return nil
	case err := <-crashed:
		return err
	}
}

// setVersion sets the version that the node's status shows for its runtime. containerd
// knows it only when its own Makefile has built it.
func setVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/containerd/containerd/v2" {
			version.Version = strings.TrimPrefix(m.Version, "v")
		}
	}
}

// setPath puts BinDir first in this process's PATH, and last the system's directories
// that it lacks. NFTDir is before them or behind them. Naming the shim and runc by absolute path is not enough: after a
// restart containerd looks for the shim of a pod's second container by name, and forgets
// the container when it finds none. It also asks a shim for its features without saying
// which runc it means.
func (c Config) setPath() error {
	dirs := []string{c.BinDir}
	system := append(filepath.SplitList(os.Getenv("PATH")), host.ProgramDirs...)
	if c.NFTFirst {
		dirs = append(dirs, c.NFTDir)
	}
	for _, dir := range append(system, c.NFTDir) {
		if dir != "" && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if err := os.Setenv("PATH", strings.Join(dirs, ":")); err != nil {
		return fmt.Errorf("setting PATH: %w", err)
	}
	return nil
}

// prepare makes the directories and removes the mounts that a killed process left.
func prepare(ctx context.Context, l layout.Layout, settings *srvconfig.Config) error {
	if err := server.CreateTopLevelDirectories(settings); err != nil {
		return fmt.Errorf("preparing containerd's directories: %w", err)
	}
	if err := mount.SetTempMountLocation(l.TempMounts()); err != nil {
		return fmt.Errorf("preparing containerd's directories: %w", err)
	}
	warnings, err := mount.CleanupTempMounts(0)
	for _, w := range append(warnings, err) {
		if w != nil {
			lifecycle.Logger(ctx).Warn("clearing temporary mounts", "error", w)
		}
	}
	return nil
}

func start(ctx context.Context, l layout.Layout, settings *srvconfig.Config) (*server.Server, error) {
	restore := keepKlogVerbosity()
	srv, err := server.New(ctx, settings)
	restore(ctx)
	if err != nil {
		return nil, explainStart(l, err)
	}
	if err := srv.Start(ctx); err != nil {
		srv.Stop()
		return nil, fmt.Errorf("starting containerd: %w", err)
	}
	// containerd makes it writable for the group too.
	if err := os.Chmod(l.ContainerdTTRPC(), 0o600); err != nil {
		srv.Stop()
		return nil, fmt.Errorf("protecting containerd's socket: %w", err)
	}
	return srv, nil
}

// explainStart adds to an error what to do about a database that cannot be opened:
// containerd names the plugin and not the file.
func explainStart(l layout.Layout, err error) error {
	err = fmt.Errorf("starting containerd: %w", err)
	if strings.Contains(err.Error(), metadataPlugin) {
		return fmt.Errorf("%w: its database %s cannot be used; if it is damaged stop all pods, move %s away, and images will be pulled again",
			err, l.ContainerdDatabase(), l.ContainerdRoot())
	}
	return err
}

func waitReady(ctx context.Context, srv *server.Server, crashed <-chan error) error {
	recovered := make(chan struct{})
	go func() {
		srv.Wait()
		close(recovered)
	}()
	select {
	case <-recovered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case err := <-crashed:
		return err
	}
}

package agent

import (
	"context"
	"fmt"

	"brink/agent/kubelet"
	"brink/internal/lifecycle"
	"brink/runtime/containerd"
	"brink/runtime/images"
	"brink/runtime/payload"
)

// runContainerd unpacks the programs and runs containerd with them.
func (a *Agent) runContainerd(ctx context.Context, ready func()) error {
	l := a.cfg.Layout
	programs, err := payload.Unpack(l.Payload(), l.ContainerdState())
	if err != nil {
		return fmt.Errorf("unpacking the embedded programs: %w", err)
	}
	a.putFiles(ctx)
	component, err := containerd.New(containerd.Config{
		Layout:         l,
		BinDir:         programs.Bin(),
		NFTDir:         programs.NFT(),
		NFTFirst:       a.needsOwnNFT(ctx),
		PauseArchive:   programs.PauseArchive(),
		PauseImage:     programs.PauseImage(),
		CNIBinDir:      programs.Bin(),
		RegistriesFile: a.cfg.RegistriesFile,
		ArchivesRead:   a.images.Arrived(),
		Host:           a.cfg.Host,
		SystemdCgroups: a.cfg.groups.systemd,
		Debug:          a.cfg.Debug,
	})
	if err != nil {
		return err
	}
	return component.Run(ctx, ready)
}

// runImages brings the images of the images directory onto the node, beside all else: the
// kubelet does not wait for it, and a pod only if its image is among them. After an
// unclean end it checks all images.
func (a *Agent) runImages(ctx context.Context, ready func()) error {
	store := images.Store{Layout: a.cfg.Layout}
	a.forgetPulls(ctx, kubelet.ForgetPulls, store)
	ready()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.images.Run(ctx)
	}()
	if err := store.Recheck(ctx, a.images); err != nil && ctx.Err() == nil {
		lifecycle.Logger(ctx).Warn("images are checked again at the next start", "error", err)
	}
	<-done
	return nil
}

// newImages returns the directory of archives, which corrects what the kubelet knows of
// pulls after each import.
func (a *Agent) newImages() *images.Directory {
	store := images.Store{Layout: a.cfg.Layout}
	return images.NewDirectory(store, a.cfg.Layout.Images(), func(ctx context.Context) {
		a.forgetPulls(ctx, kubelet.ForgetImported, store)
	})
}

type forgetFunc = func(rootDir string, whole func(string) string, images func() ([]kubelet.Image, error)) error

// forgetPulls drops by forget what the kubelet remembers of pulls of images that were
// imported. After a failure pods may not get these images; the node works.
func (a *Agent) forgetPulls(ctx context.Context, forget forgetFunc, store images.Store) {
	present := func() ([]kubelet.Image, error) {
		names, err := store.Names(ctx)
		var out []kubelet.Image
		for _, n := range names {
			out = append(out, kubelet.Image(n))
		}
		return out, err
	}
	root := kubelet.RootDir(a.cfg.KubeletArgs, a.cfg.Layout.Kubelet())
	if err := forget(root, images.WholeName, present); err != nil {
		lifecycle.Logger(ctx).Warn("pods may be kept from imported images", "error", err)
	}
}

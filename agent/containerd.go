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
		Host:           a.cfg.Host,
		SystemdCgroups: a.cfg.groups.systemd,
		Debug:          a.cfg.Debug,
	})
	if err != nil {
		return err
	}
	return component.Run(ctx, ready)
}

// runImages imports the archives in the images directory, and after an unclean end
// checks all images.
func (a *Agent) runImages(ctx context.Context, ready func()) error {
	store := images.Store{Layout: a.cfg.Layout}
	if err := store.ImportDir(ctx, a.cfg.Layout.Images()); err != nil {
		return err
	}
	a.forgetPulls(ctx, store)
	ready()
	if err := store.Recheck(ctx, a.cfg.Layout.Images()); err != nil && ctx.Err() == nil {
		lifecycle.Logger(ctx).Warn("images are checked again at the next start", "error", err)
	}
	<-ctx.Done()
	return nil
}

// forgetPulls drops what the kubelet remembers of pulls of images that were imported.
// After a failure pods may not get these images; the node works.
func (a *Agent) forgetPulls(ctx context.Context, store images.Store) {
	present := func() ([]kubelet.Image, error) {
		names, err := store.Names(ctx)
		var out []kubelet.Image
		for _, n := range names {
			out = append(out, kubelet.Image(n))
		}
		return out, err
	}
	root := kubelet.RootDir(a.cfg.KubeletArgs, a.cfg.Layout.Kubelet())
	if err := kubelet.ForgetPulls(root, images.WholeName, present); err != nil {
		lifecycle.Logger(ctx).Warn("pods may be kept from imported images", "error", err)
	}
}

package agent

import (
	"context"
	"log/slog"

	"brink/agent/kubelet"
	"brink/runtime/images"
)

// forgetPulls frees imported images of what the kubelet remembers of pulls of them.
// A failure costs their use, not the node's.
func (a *Agent) forgetPulls(ctx context.Context, store images.Store) {
	there := func() ([]kubelet.Image, error) {
		names, err := store.Names(ctx)
		var out []kubelet.Image
		for _, n := range names {
			out = append(out, kubelet.Image(n))
		}
		return out, err
	}
	root := kubelet.RootDir(a.cfg.KubeletArgs, a.cfg.Layout.Kubelet())
	if err := kubelet.ForgetPulls(root, images.WholeName, there); err != nil {
		slog.Warn("pods may be kept from imported images", "component", "images", "error", err)
	}
}

package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"brink/agent/proxy"
	"brink/agent/uninstall"
	"brink/cmd/node"
	"brink/cmd/node/upstream"
	"brink/internal/layout"
	"brink/runtime/containerd"
)

func stopCommand() *cli.Command {
	return &cli.Command{
		Name:     "stop",
		Usage:    "stop brink, and with --pods the node's pods too",
		Category: "Run",
		Description: "Stops the brink on the data directory, by its service where it is one of systemd or OpenRC. Pods run on\n" +
			"unless --pods is given: then each gets the signal that its image names and the time of its\n" +
			"terminationGracePeriodSeconds, and mounts, network and cgroups go as by a reboot. Hooks before the stop\n" +
			"(preStop) are the kubelet's and do not run. All files stay, and the next start brings the node back.\n" +
			"brink need not run for that.",
		Flags: pathFlags(
			&cli.BoolFlag{Name: "pods", Usage: "end the pods of the node too"},
			&cli.DurationFlag{Name: "timeout", Usage: "with --pods: the most `TIME` that any pod gets, such as 10s (default: what each asks for)"},
		),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.IsSet("timeout") && (!c.Bool("pods") || c.Duration("timeout") <= 0) {
				return errors.New("--timeout goes with --pods and must be more than 0, such as 10s")
			}
			l, err := locate(c)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("only root may stop brink: use sudo")
			}
			if c.Bool("pods") {
				return stopPods(c.Context, l, c.Duration("timeout"))
			}
			return stopNode(c.Context, l)
		},
	}
}

// stopNode stops brink alone.
func stopNode(ctx context.Context, l layout.Layout) error {
	stopped, err := node.Stop(ctx, l, node.Stopping{Uses: usesDataDir(l)})
	if err == nil && !stopped {
		fmt.Println("brink does not run with data directory", l.Data())
	}
	return err
}

// stopPods stops brink and takes the pods down, each in its own time, at most limit if
// that is not 0.
func stopPods(ctx context.Context, l layout.Layout, limit time.Duration) error {
	if err := uninstall.CheckDataDir(l); err != nil {
		return err
	}
	if !uninstall.Installed(l) {
		fmt.Println("nothing of brink is here: no data in", l.Data())
		return nil
	}
	unlock, err := node.TakeOver(ctx, l, node.Stopping{Uses: usesDataDir(l)})
	if err != nil {
		return err
	}
	defer unlock()
	removeNFT, err := findNFT(l)
	if err != nil {
		return err
	}
	defer removeNFT()
	upstream.LogWarningsOnly()
	return uninstall.Run(ctx, uninstall.Config{
		Layout: l, KeepData: true, Grace: limit, RemoveProxy: proxy.Remove,
		Stops:   func() (map[string]uninstall.Stop, error) { return stopsOf(ctx, l) },
		Removed: func(what string) { fmt.Println("took down", what) },
		Kept:    func(what string) { fmt.Println("kept", what) },
	})
}

func stopsOf(ctx context.Context, l layout.Layout) (map[string]uninstall.Stop, error) {
	stops, err := containerd.Stops(ctx, l.ContainerdDatabase())
	out := map[string]uninstall.Stop{}
	for id, s := range stops {
		out[id] = uninstall.Stop(s)
	}
	return out, err
}

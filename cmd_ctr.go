package main

import (
	"github.com/urfave/cli/v2"

	"brink/internal/layout"
	"brink/runtime/ctr"
)

func ctrCommand() *cli.Command {
	return &cli.Command{
		Name:            "ctr",
		Usage:           "containerd's own client, for looking under the hood",
		Category:        "Use",
		SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			return runCtr(append([]string{"ctr"}, c.Args().Slice()...), defaultSocket())
		},
	}
}

func runCtr(args []string, socket string) error { return ctr.Run(args, socket) }

func defaultSocket() string { return layout.New(layout.DefaultData).ContainerdSocket() }

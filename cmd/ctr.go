package cmd

import (
	"errors"

	"github.com/urfave/cli/v2"

	"brink/cmd/node/upstream"
	"brink/runtime/containerd/ctr"
)

func ctrCommand() *cli.Command {
	return &cli.Command{
		Name:            "ctr",
		Usage:           "containerd's own client, for looking under the hood",
		Category:        "Use",
		SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			return runCtr(append([]string{"ctr"}, c.Args().Slice()...))
		},
	}
}

// Ctr runs the embedded client and returns the exit code.
func Ctr(args []string) int {
	upstream.CompletePath()
	return ExitCode(runCtr(args))
}

// runCtr runs the embedded client with this node's containerd as the default.
func runCtr(args []string) error {
	here, err := defaultPaths()
	if err != nil {
		return err
	}
	return ctr.Run(args, here.layout.ContainerdSocket())
}

// crictlCommand takes the name of a client of the CRI that brink does not have, which is
// what people type who know k3s.
func crictlCommand() *cli.Command {
	return &cli.Command{
		Name: "crictl", Hidden: true, SkipFlagParsing: true, HideHelp: true,
		Action: func(*cli.Context) error { return errNoCrictl },
	}
}

var errNoCrictl = errors.New("there is no crictl in brink: use brink ctr -n k8s.io containers list, brink images list and brink kubectl debug node/NAME")

// Crictl is what a link named crictl runs. It returns the exit code.
func Crictl() int { return ExitCode(errNoCrictl) }

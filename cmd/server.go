package cmd

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
	"brink/cmd/node/upstream"
)

func serverCommand(exit func(code int)) *cli.Command {
	flags := serverFlags()
	return &cli.Command{
		Name:     "server",
		Usage:    "run the control plane and, unless --disable-agent, pods",
		Category: "Run",
		Description: "Runs in the foreground and logs to standard error; `brink: node NAME is Ready` on standard\n" +
			"output says that pods can run. SIGTERM stops it and leaves the pods running: the next\n" +
			"start takes them up again.",
		Flags: flags,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("brink server takes no arguments, got %q", c.Args().First())
			}
			if err := applyConfigFile(c, flags); err != nil {
				return err
			}
			globals := upstream.Set(upstream.Options{Debug: c.Bool("debug"), Verbosity: verbosity(c), Exit: exit})
			cfg, err := readServer(c)
			if err != nil {
				return err
			}
			forgetSecrets()
			return node.Run(c.Context, cfg, globals)
		},
	}
}

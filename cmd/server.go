package cmd

import (
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
		Flags:  flags,
		Action: runNode(flags, readServer, exit),
	}
}

// runNode returns the action of a command that runs a node, whose flags read reads. exit
// ends the process, for upstream's code that does so by itself.
func runNode(flags []cli.Flag, read func(*cli.Context) (node.Config, error), exit func(code int)) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := noArguments(c); err != nil {
			return err
		}
		if err := applyConfigFile(c, flags); err != nil {
			return err
		}
		globals := upstream.Set(upstream.Options{Debug: c.Bool("debug"), Verbosity: verbosity(c), Exit: exit})
		cfg, err := read(c)
		if err != nil {
			return err
		}
		forgetSecrets()
		return node.Run(c.Context, cfg, globals)
	}
}

// Package cmd is brink's command line: one file a command, with its flags. It alone
// knows the library that parses them (urfave/cli), the configuration file and the
// environment; what they say goes down as a Config, and packages below know no flags.
// A command returns an error, which is printed as one line for each thing that is
// wrong.
//
// kubectl and ctr are upstream's own clients, with flags, signals and exit codes of
// their own: main hands them their arguments before anything is parsed here.
//
// Read in this order: cmd.go (the list of commands), server.go and agent.go, flags.go,
// configfile.go and settings.go (from flags to a node's Config), values.go,
// networkbackend.go and passthrough.go (single values, and flags of the embedded
// components), secrets.go; then, for commands beside a running node, nodepaths.go
// (where it keeps its files), apiclient.go and output.go, and the commands themselves.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"brink/cmd/node/upstream"
	"brink/internal/release"
)

// Run runs the command that args name, after the program's own name, and returns the
// exit code. A node stops once ctx ends. exit ends the process, for upstream's code that
// does so by itself.
func Run(ctx context.Context, args []string, exit func(code int)) int {
	upstream.CompletePath()
	if len(args) == 2 && (args[1] == "--version" || args[1] == "-v") {
		args = []string{args[0], "version"}
	}
	return ExitCode(newApp(exit).RunContext(ctx, args))
}

// ExitCode prints err, one line for each thing that is wrong, and returns the code to
// exit with.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, line := range strings.Split(strings.TrimSpace(err.Error()), "\n") {
		fmt.Fprintln(os.Stderr, "brink: "+line)
	}
	var coder cli.ExitCoder
	if errors.As(err, &coder) {
		return coder.ExitCode()
	}
	return 1
}

func newApp(exit func(code int)) *cli.App {
	app := &cli.App{
		Name:                 "brink",
		HelpName:             "brink", // also when the file is called otherwise
		Usage:                "Kubernetes for the edge in one file",
		Description:          "A node is one process: `brink server` runs the control plane and, unless told otherwise, pods;\n`brink agent` joins a cluster and runs pods only.\nGive kubectl's commands after `brink kubectl`. Configuration: /etc/brink/config.yaml, keys are flag names.",
		Version:              release.BuiltAs(),
		HideVersion:          true,
		EnableBashCompletion: true,
		// Values of pass-through flags contain commas.
		DisableSliceFlagSeparator: true,
		UseShortOptionHandling:    false,
		// Errors are printed by ExitCode; the library would exit by itself.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Commands: []*cli.Command{
			serverCommand(exit),
			agentCommand(exit),
			kubectlCommand(),
			ctrCommand(),
			crictlCommand(),
			tokenCommand(),
			statusCommand(),
			checkCommand(),
			imagesCommand(),
			stopCommand(),
			snapshotCommand(),
			upgradeCommand(),
			uninstallCommand(),
			versionCommand(),
			completionCommand(),
		},
		CommandNotFound: nil,
		Action:          rootAction,
	}
	for _, c := range app.Commands {
		c.OnUsageError = usageError
	}
	return app
}

// rootAction answers `brink` alone with help and `brink nonsense` with an error.
func rootAction(c *cli.Context) error {
	if c.NArg() > 0 {
		return noSuchCommand(c)
	}
	return cli.ShowAppHelp(c)
}

// groupAction does the same for a command that only has commands below it.
func groupAction(c *cli.Context) error {
	if c.NArg() > 0 {
		return noSuchCommand(c)
	}
	return cli.ShowSubcommandHelp(c)
}

func noSuchCommand(c *cli.Context) error {
	path := commandPath(c)
	called := strings.TrimPrefix(path+" "+c.Args().First(), "brink ")
	return fmt.Errorf("there is no command %q; see %s --help", called, path)
}

// noArguments returns an error if the command was given arguments.
func noArguments(c *cli.Context) error {
	if c.NArg() == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no arguments, got %q", commandPath(c), c.Args().First())
}

// usageError returns one line, where the library would print a screen of help with the
// reason on top.
func usageError(c *cli.Context, err error, _ bool) error {
	path := commandPath(c)
	return fmt.Errorf("%s: %w; see %s --help", path, err, path)
}

// commandPath returns what the user typed to get to c's command: brink images import.
func commandPath(c *cli.Context) string {
	if c.Command != nil && c.Command.HelpName != "" {
		return c.Command.HelpName
	}
	return "brink"
}

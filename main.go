// Command brink is Kubernetes for the edge in one file: `brink server` is a
// control plane and a worker, `brink kubectl` talks to it. This package picks
// the command, composes the server and the agent, and owns what belongs to the
// process: signals, logging, the exit code.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"brink/internal/argsecrets"
)

func main() {
	args, err := argsecrets.Restore(os.Setenv)
	if err != nil {
		os.Exit(exitCode(err))
	}
	os.Args = args
	os.Exit(run(os.Args))
}

// run picks the command, by argv[0] too, so that links named kubectl and ctr
// work as those programs.
func run(args []string) int {
	completePath()
	switch filepath.Base(args[0]) {
	case "kubectl":
		return kubectl(args)
	case "ctr":
		return exitCode(runCtr(args))
	}
	// kubectl parses its own flags, and its exit codes mean something.
	if len(args) > 1 && args[1] == "kubectl" {
		return kubectl(append([]string{"kubectl"}, args[2:]...))
	}
	if len(args) == 2 && (args[1] == "--version" || args[1] == "-v") {
		args = []string{args[0], "version"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// The first signal asks for an orderly stop; after it, signals have their
	// default effect again, so that a second one ends a stop that hangs.
	context.AfterFunc(ctx, stop)
	return exitCode(newApp().RunContext(ctx, args))
}

// systemDirs are where distributions put modprobe, nft and mount.
var systemDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// completePath appends to the path what a root shell may lack: Debian's su keeps
// the user's, without sbin. The embedded components run programs by name.
func completePath() {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range systemDirs {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	os.Setenv("PATH", strings.Join(dirs, string(filepath.ListSeparator)))
}

// exitCode prints err, one line for each thing that is wrong.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, line := range strings.Split(strings.TrimSpace(err.Error()), "\n") {
		fmt.Fprintln(os.Stderr, "brink: "+line)
	}
	if coder, ok := err.(cli.ExitCoder); ok {
		return coder.ExitCode()
	}
	return 1
}

func newApp() *cli.App {
	app := &cli.App{
		Name:                 "brink",
		HelpName:             "brink", // also when the file is called otherwise
		Usage:                "Kubernetes for the edge in one file",
		Description:          "A node is one process: `brink server` runs the control plane and, unless told otherwise, pods;\n`brink agent` joins a cluster and runs pods only.\nGive kubectl's commands after `brink kubectl`. Configuration: /etc/brink/config.yaml, keys are flag names.",
		Version:              version,
		HideVersion:          true,
		EnableBashCompletion: true,
		// Values of pass-through flags contain commas.
		DisableSliceFlagSeparator: true,
		UseShortOptionHandling:    false,
		// Errors are printed by exitCode; the library would exit by itself.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Commands: []*cli.Command{
			serverCommand(),
			agentCommand(),
			kubectlCommand(),
			ctrCommand(),
			tokenCommand(),
			statusCommand(),
			checkCommand(),
			imagesCommand(),
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

// usageError is one line instead of a screen of help with the reason on top.
func usageError(c *cli.Context, err error, _ bool) error {
	path := commandPath(c)
	return fmt.Errorf("%s: %w; see %s --help", path, err, path)
}

// commandPath is what the user typed to get to c's command: brink images import.
func commandPath(c *cli.Context) string {
	if c.Command != nil && c.Command.HelpName != "" {
		return c.Command.HelpName
	}
	return "brink"
}

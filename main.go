// Command brink is Kubernetes for the edge in one file: `brink server` is a
// control plane and a worker, `brink agent` a worker, `brink kubectl` talks to the
// cluster. This file owns what belongs to the process: the name it was started by,
// signals and the exit code. Package cmd has the commands.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"brink/cmd"
	"brink/internal/argsecrets"
)

func main() {
	args, err := argsecrets.Restore(os.Setenv)
	if err != nil {
		os.Exit(cmd.ExitCode(err))
	}
	os.Args = args
	os.Exit(run(args))
}

// run picks the program, by argv[0] too, so that links named kubectl and ctr work
// as those, and one named crictl says what to use. They have ways of their own with signals, and kubectl with flags and
// exit codes.
func run(args []string) int {
	switch filepath.Base(args[0]) {
	case "kubectl":
		return cmd.Kubectl(args)
	case "ctr":
		return cmd.Ctr(args)
	case "crictl":
		return cmd.Crictl()
	}
	if len(args) > 1 && args[1] == "kubectl" {
		return cmd.Kubectl(args[1:])
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// The first signal asks for an orderly stop; after it, signals have their
	// default effect again, so that a second one ends a stop that hangs.
	context.AfterFunc(ctx, stop)
	return cmd.Run(ctx, args, os.Exit)
}

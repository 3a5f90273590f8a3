package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // credentials of other clusters' kubeconfigs
	cliruntime "k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"brink/internal/layout"
)

func kubectlCommand() *cli.Command {
	return &cli.Command{
		Name:            "kubectl",
		Usage:           "Kubernetes' own client, with the kubeconfig found by itself",
		Category:        "Use",
		SkipFlagParsing: true,
		Action:          func(c *cli.Context) error { return nil }, // run takes it before
	}
}

// kubectl runs the embedded client; it may end the process by itself, with its
// own exit codes.
func kubectl(args []string) int {
	if err := findKubeconfig(args, defaultKubeconfig()); err != nil {
		return exitCode(err)
	}
	os.Args = args
	_, _ = logs.GlogSetter(kubectlcmd.GetLogVerbosity(args))
	command := kubectlcmd.NewDefaultKubectlCommand()
	if err := cliruntime.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err)
	}
	return 0
}

// findKubeconfig points kubectl to path, this node's kubeconfig, unless the user
// has chosen one. A node's own file wins over ~/.kube/config as in k3s: who types
// `brink kubectl` on a node means the node.
func findKubeconfig(args []string, path string) error {
	if os.Getenv("KUBECONFIG") != "" {
		return nil
	}
	for _, a := range args {
		if a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") {
			return nil
		}
	}
	f, err := os.Open(path)
	switch {
	case err == nil:
		f.Close()
		return os.Setenv("KUBECONFIG", path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is readable by root only: use sudo, or start brink with --write-kubeconfig-mode 644", path)
	}
	return nil
}

func defaultKubeconfig() string { return filepath.Join(layout.ConfigDir, "brink.yaml") }

package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // credentials of other clusters' kubeconfigs
	"k8s.io/client-go/tools/clientcmd"
	cliruntime "k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"brink/cmd/node/upstream"
	"brink/internal/layout"
)

func kubectlCommand() *cli.Command {
	return &cli.Command{
		Name:            "kubectl",
		Usage:           "Kubernetes' own client, with the kubeconfig found by itself",
		Category:        "Use",
		SkipFlagParsing: true,
		Action:          func(c *cli.Context) error { return nil }, // main takes it before
	}
}

// Kubectl runs the embedded client; it may end the process by itself, with its
// own exit codes. args are its own, with its name as the first.
func Kubectl(args []string) int {
	upstream.CompletePath()
	if err := useKubeconfig(args); err != nil {
		return ExitCode(err)
	}
	os.Args = args // kubectl finds its plugins and its flags by them
	_, _ = logs.GlogSetter(kubectlcmd.GetLogVerbosity(args))
	command := kubectlcmd.NewDefaultKubectlCommand()
	if err := cliruntime.RunNoErrOutput(command); err != nil {
		cmdutil.CheckErr(err)
	}
	return 0
}

// useKubeconfig points kubectl to this node's kubeconfig unless the user has
// chosen one.
func useKubeconfig(args []string) error {
	if choosesKubeconfig(args) {
		return nil
	}
	here, err := defaultPaths()
	if err != nil && needsCluster(args) {
		return err
	}
	if err != nil {
		return nil
	}
	return findKubeconfig(args, here.kubeconfig, clientcmd.RecommendedHomeFile)
}

func choosesKubeconfig(args []string) bool {
	isFlag := func(a string) bool { return a == "--kubeconfig" || strings.HasPrefix(a, "--kubeconfig=") }
	return os.Getenv("KUBECONFIG") != "" || slices.ContainsFunc(args, isFlag)
}

// findKubeconfig prefers path, the node's own file, to the user's own in home, as k3s
// does: `brink kubectl` on a node means that node. A user who may not read the first
// means the second, if there is one.
func findKubeconfig(args []string, path, home string) error {
	f, err := os.Open(path)
	switch {
	case err == nil:
		f.Close()
		return os.Setenv("KUBECONFIG", path)
	case !errors.Is(err, fs.ErrPermission) || !needsCluster(args):
		return nil
	}
	if _, err := os.Stat(home); err == nil {
		return nil
	}
	return fmt.Errorf("%s is readable by root only: use sudo, or start brink with --write-kubeconfig-mode 644", path)
}

// local are kubectl's commands that ask no cluster, or work without one.
var local = []string{"__complete", "__completeNoDesc", "completion", "config", "help", "kustomize", "options", "plugin"}

// needsCluster reports whether kubectl, called with args, asks a cluster. In doubt it
// does.
func needsCluster(args []string) bool {
	command := ""
	for _, a := range args[1:] {
		switch {
		case a == "--":
			return true
		case a == "-h" || a == "--help" || a == "--client" || a == "--client=true":
			return false
		case command == "" && !strings.HasPrefix(a, "-"):
			command = a
		}
	}
	return command != "" && !slices.Contains(local, command)
}

func defaultKubeconfig() string { return layout.New(layout.DefaultData).Kubeconfig() }

// Package ctr is containerd's own debugging client, for `brink ctr`. It is apart from
// package containerd, so that a node does not depend on a command line.
package ctr

import (
	"os"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
)

// Run executes ctr with args, the first of which is the program's name. socket is the
// default of --address. The default namespace is that of Kubernetes.
func Run(args []string, socket string) error {
	for name, value := range map[string]string{"CONTAINERD_ADDRESS": socket, "CONTAINERD_NAMESPACE": "k8s.io"} {
		if _, set := os.LookupEnv(name); !set {
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
	}
	return app.New().Run(args)
}

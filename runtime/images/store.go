// Package images brings images onto a node and keeps them whole: from archives that
// somebody puts there, from registries as registries.yaml describes them, and again after
// a power cut has damaged them. It talks to a running containerd by its socket, so that a
// command can use it beside the node.
//
// Decisions:
//
//   - Archives are imported by this package and not by containerd's own import, which
//     would record images that no pod of this node can use.
//   - The images of an archive in the node's directory are pinned while the archive is
//     there, so that the kubelet does not remove them to free disk space: the archive may
//     be the only source.
//   - registries.yaml has the format of k3s, and is read strictly.
package images

import (
	"context"
	"errors"
	"fmt"
	"net"

	"brink/internal/layout"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// Store is the image store of this node's containerd, as the CRI uses it.
type Store struct {
	// Layout says where containerd's socket and its files are.
	Layout layout.Layout
}

// connect returns an error when nobody listens, where the client alone would wait.
func (s Store) connect() (*containerd.Client, error) {
	conn, err := net.Dial("unix", s.Layout.ContainerdSocket())
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	conn.Close()
	client, err := containerd.New(s.Layout.ContainerdSocket(), containerd.WithDefaultNamespace(Namespace))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	return client, nil
}

// errGone is the reason when an import ends early.
var errGone = errors.New("containerd has gone away: import it again when brink runs")

// whileServed returns a context that ends when containerd's socket is no longer served.
// containerd's client would ask for a place to write to for ever, and so would the
// command of somebody whose brink was stopped meanwhile.
func whileServed(ctx context.Context, client *containerd.Client) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	conn, ok := client.Conn().(*grpc.ClientConn)
	if !ok {
		return ctx, func() { cancel(nil) }
	}
	go func() {
		for state := conn.GetState(); conn.WaitForStateChange(ctx, state); state = conn.GetState() {
			if conn.GetState() == connectivity.TransientFailure {
				cancel(errGone)
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

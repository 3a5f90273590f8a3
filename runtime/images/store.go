// Package images is what a node's images come from and how they are kept: archives
// that somebody brought, registries, and the check of what a power cut may have
// damaged. It talks to a running containerd by its socket, so that commands can do so
// beside the node.
//
// Decisions:
//
//   - An archive is imported here and not by containerd's own import, which also
//     records images that no pod of this node could use.
//   - Images of archives in the node's directory are pinned for as long as the archive
//     lies there: where it is the only source, nothing could bring them back.
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

// connect fails when nobody listens; the client alone would wait for somebody.
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

// errGone is why an import ends before its time.
var errGone = errors.New("containerd has gone away: import it again when brink runs")

// whileServed ends the context when nobody listens on containerd's socket any more.
// Its client would ask for a place to write to for ever, and with it the command of
// somebody whose brink was stopped meanwhile.
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

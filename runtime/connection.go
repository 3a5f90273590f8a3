package runtime

import (
	"context"
	"errors"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

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

package containerd

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"brink/internal/testwait"
)

// stopped is a CRI that answers as gRPC does when the call's context is done.
type stopped struct{ cri.ImageServiceClient }

func (stopped) ImageStatus(ctx context.Context, _ *cri.ImageStatusRequest, _ ...grpc.CallOption) (*cri.ImageStatusResponse, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

// TestWaitPinnedIsStopped: a node that is stopped while it starts has not failed.
func TestWaitPinnedIsStopped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := waitPinned(ctx, stopped{}, "pause", testwait.Patience); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

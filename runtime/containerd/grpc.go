package containerd

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"google.golang.org/grpc"

	"brink/internal/rootsocket"
)

// The gRPC server is a plugin of our own in place of containerd's, which takes no
// interceptors: pulls go through one, see pulls.go. It serves the same plugins on the same
// kind of socket, without TCP and metrics, and makes the socket for root alone from the
// start.
func init() {
	registry.Register(&plugin.Registration{
		Type: plugins.ServerPlugin,
		ID:   "grpc",
		Requires: []plugin.Type{
			plugins.GRPCPlugin,
			plugins.LeasePlugin,
			plugins.MetadataPlugin,
		},
		Config: &grpcConfig{},
		InitFn: newGRPC,
	})
}

type grpcConfig struct {
	Address string `toml:"address"`
}

// grpcServer is what containerd starts, and closes at the end.
type grpcServer struct {
	*grpc.Server
	address string
	pulls   *pulls
}

// grpcService is a plugin that answers requests.
type grpcService interface {
	Register(*grpc.Server) error
}

func newGRPC(ic *plugin.InitContext) (any, error) {
	p, err := newPulls(ic)
	if err != nil {
		return nil, err
	}
	s := grpcServer{
		Server: grpc.NewServer(
			grpc.ChainUnaryInterceptor(inNamespace, p.intercept),
			grpc.ChainStreamInterceptor(streamInNamespace),
			grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
			grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
		),
		address: ic.Config.(*grpcConfig).Address,
		pulls:   p,
	}
	// A plugin that could not start has been logged, and required ones end the start.
	for _, loaded := range ic.Plugins().GetAll() {
		if loaded.Registration.Type != plugins.GRPCPlugin {
			continue
		}
		instance, err := loaded.Instance()
		if err != nil {
			continue
		}
		if service, ok := instance.(grpcService); ok {
			if err := service.Register(s.Server); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// Start listens and returns.
func (s grpcServer) Start(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(s.address), 0o711); err != nil {
		return err
	}
	l, err := rootsocket.Listen(s.address)
	if err != nil {
		return err
	}
	go func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			log.G(ctx).WithError(err).Error("serving containerd's socket ended")
		}
	}()
	go s.pulls.tidy(ctx)
	return nil
}

// Close ends all requests.
func (s grpcServer) Close() error {
	s.Stop()
	return nil
}

// inNamespace hands the namespace of a request on to what the request calls.
func inNamespace(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	return handle(withNamespace(ctx), req)
}

func streamInNamespace(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(server, namespacedStream{stream, withNamespace(stream.Context())})
}

func withNamespace(ctx context.Context) context.Context {
	if name, ok := namespaces.Namespace(ctx); ok {
		return namespaces.WithNamespace(ctx, name)
	}
	return ctx
}

type namespacedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s namespacedStream) Context() context.Context { return s.ctx }

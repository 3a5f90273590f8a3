package images

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// newFetcher returns a fetcher that asks registries as a node with the same registries.yaml
// would. hosts is a directory for what containerd's library reads of that.
func newFetcher(ctx context.Context, b Bundle, store content.Store, hosts string) (*fetcher, error) {
	f := &fetcher{store: store, report: b.Report, source: map[digest.Digest]string{}}
	for _, text := range b.Platforms {
		p, err := platforms.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%q is no platform: give one like linux/arm64", text)
		}
		f.platforms = append(f.platforms, platforms.Normalize(p))
	}
	if len(f.platforms) == 0 {
		f.platforms = []ocispec.Platform{platforms.DefaultSpec()}
	}
	if err := os.MkdirAll(hosts, 0o700); err != nil {
		return nil, err
	}
	if err := b.Registries.WriteHosts(hosts); err != nil {
		return nil, err
	}
	f.resolver = docker.NewResolver(docker.ResolverOptions{
		Hosts: dockerconfig.ConfigureHosts(ctx, dockerconfig.HostOptions{
			HostDir:     dockerconfig.HostDirFromRoot(hosts),
			Credentials: b.Registries.credentials,
		}),
	})
	return f, nil
}

// credentials returns what a host is told, as containerd's CRI does: with an identity
// token the name is empty.
func (r Registries) credentials(host string) (name, secret string, err error) {
	a := r.configOf(host).auth
	switch {
	case a == nil:
		return "", "", nil
	case a.username != "":
		return a.username, a.password, nil
	case a.identityToken != "":
		return "", a.identityToken, nil
	}
	return a.basic()
}

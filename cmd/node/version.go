package node

import (
	"runtime"
	"runtime/debug"
	"slices"

	"brink/internal/host"
	"brink/internal/release"
	"brink/runtime/payload"
)

// Component is a part of brink whose version a user may need to know.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// modules are the embedded parts, with the Go modules whose versions are theirs.
var modules = []struct{ name, path string }{
	{"kubernetes", "k8s.io/kubernetes"},
	{"containerd", "github.com/containerd/containerd/v2"},
	{"kine", "github.com/k3s-io/kine"},
	{"go-sqlite3", "github.com/mattn/go-sqlite3"},
}

// Versions returns the versions of brink and of what it embeds.
func Versions() []Component {
	list := []Component{{"brink", release.BuiltAs()}}
	info, _ := debug.ReadBuildInfo()
	for _, m := range modules {
		for _, dep := range info.Deps {
			if dep.Path == m.path {
				list = append(list, Component{m.name, dep.Version})
			}
		}
	}
	if nft := payload.NFTVersion(); nft != "" {
		list = append(list, Component{nftName, nft})
	}
	return append(list, Component{"go", runtime.Version()}, Component{"platform", runtime.GOOS + "/" + runtime.GOARCH})
}

const nftName = "nft"

// withNFT replaces the version of brink's own nft by that of the one in use, and says whose
// it is.
func withNFT(list []Component, f host.Facts) []Component {
	used := Component{nftName, f.NFTVersion + " (" + f.NFT + ")"}
	if f.NFTFault() != "" {
		used.Version = payload.NFTVersion() + " (brink's own)"
	}
	list = slices.DeleteFunc(list, func(c Component) bool { return c.Name == nftName })
	return append(list, used)
}

package node

import (
	"runtime"
	"runtime/debug"

	"brink/internal/release"
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
	return append(list, Component{"go", runtime.Version()}, Component{"platform", runtime.GOOS + "/" + runtime.GOARCH})
}

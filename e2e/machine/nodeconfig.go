package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brink/internal/layout"
)

// NewServer is a machine that will be a server: with a configuration of what every
// node of a shared host needs and the given lines. Nothing is written or started.
func NewServer(m *Machine, config ...string) *Node {
	own := []string{"write-kubeconfig: " + m.Kubeconfig()}
	if m.IsDefault() {
		own = nil
	}
	return &Node{Machine: m, Config: append(m.baseConfig(own), config...)}
}

// NewAgent is a machine that will be an agent of the server: with the server's own
// token unless the lines give another one.
func NewAgent(m *Machine, server *Node, config ...string) *Node {
	own := []string{"server: https://" + server.Addr.String() + ":6443"}
	if !strings.Contains(strings.Join(config, "\n"), "token") {
		own = append(own, "token-file: "+server.Layout().ServerToken())
	}
	return &Node{Machine: m, Server: server, Config: append(m.baseConfig(own), config...)}
}

// baseConfig is what every node of a shared host needs, with lines of its role. It
// ends in a list of flags for the kubelet, which further lines may go on with.
func (m *Machine) baseConfig(role []string) []string {
	var dir []string
	if !m.IsDefault() {
		dir = []string{"data-dir: " + m.Data}
	}
	return slices.Concat(dir, role, []string{"node-name: " + m.ID, "kubelet-arg:", "  - cgroup-root=/" + m.ID})
}

// ConfigFile is the configuration file, as it is found from outside.
func (n *Node) ConfigFile() string {
	if n.IsDefault() {
		return n.Inside(filepath.Join(layout.ConfigDir, "config.yaml"))
	}
	return filepath.Join(n.Dir, "config.yaml")
}

// Flags are those that a command needs to know which node it is for: none on a
// machine whose node is the default one.
func (n *Node) Flags(names ...string) []string {
	var out []string
	for _, name := range names {
		switch {
		case n.IsDefault():
		case name == "config":
			out = append(out, "--config", n.ConfigFile())
		case name == "data-dir":
			out = append(out, "--data-dir", n.Data)
		}
	}
	return out
}

// WriteConfig writes the configuration file.
func (n *Node) WriteConfig() error {
	if err := os.MkdirAll(filepath.Dir(n.ConfigFile()), 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.ConfigFile(), []byte(strings.Join(n.Config, "\n")+"\n"), 0o644)
}

// Configure gives a setting a value on one line of the configuration file, or takes
// it out with an empty value, and writes the file.
func (n *Node) Configure(key, value string) error {
	at := slices.IndexFunc(n.Config, func(line string) bool { return strings.HasPrefix(line, key+":") })
	switch {
	case value == "" && at >= 0:
		n.Config = slices.Delete(n.Config, at, at+1)
	case value != "" && at >= 0:
		n.Config[at] = key + ": " + value
	case value != "":
		n.Config = append(n.Config, key+": "+value)
	}
	return n.WriteConfig()
}

// AddImages puts an archive of images where brink imports it from before it starts
// the kubelet. A hard link costs nothing.
func (n *Node) AddImages(archive string) error {
	dir := n.Layout().Images()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Link(archive, filepath.Join(dir, "e2e.tar"))
}

// ImportImages is AddImages for a node that runs.
func (n *Node) ImportImages(archive string) error {
	r, err := n.Brink(append(append([]string{"images", "import"}, n.Flags("data-dir")...), archive)...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("brink images import: %v", r)
	}
	return err
}

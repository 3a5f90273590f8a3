package images

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/removetree"
)

// dockerHub is the name in image references, dockerHubHost where they live.
const (
	dockerHub     = "docker.io"
	dockerHubHost = "registry-1.docker.io"
)

// Auths is containerd's table of credentials by the host that asks for them.
func (r Registries) Auths() map[string]any {
	out := map[string]any{}
	for host := range r.configs {
		c := r.configOf(host)
		if c.auth == nil {
			continue
		}
		out[apiHost(host)] = map[string]any{"auth": map[string]any{
			"username":      c.auth.username,
			"password":      c.auth.password,
			"auth":          c.auth.auth,
			"identitytoken": c.auth.identityToken,
		}}
	}
	return out
}

// apiHost is where a registry's API is served.
func apiHost(host string) string {
	if host == dockerHub {
		return dockerHubHost
	}
	return host
}

// WriteHosts replaces dir by the directories in which containerd looks for the
// endpoints of a registry, dir/<host>/hosts.toml. containerd reads them at every
// pull. They name files with keys but contain no secret.
func (r Registries) WriteHosts(dir string) error {
	if _, err := removetree.Sift(dir, isHostsFile); err != nil {
		return fmt.Errorf("writing registry settings: %w", err)
	}
	for host := range r.hosts() {
		sub := filepath.Join(dir, hostDirectory(host))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return fmt.Errorf("writing registry settings: %w", err)
		}
		if err := atomicfile.Write(filepath.Join(sub, "hosts.toml"), []byte(r.hostsFile(host)), 0o600); err != nil {
			return fmt.Errorf("registry settings: %w", err)
		}
	}
	return nil
}

// isHostsFile tells what WriteHosts has made in its directory.
func isHostsFile(rel string) removetree.Verdict {
	switch dir, base := filepath.Split(rel); {
	case dir == "":
		return removetree.Enter
	case base == "hosts.toml":
		return removetree.Remove
	}
	return removetree.Keep
}

// hosts are those that the file says something about. All others share the
// directory for any registry.
func (r Registries) hosts() map[string]bool {
	out := map[string]bool{}
	for host, endpoints := range r.mirrors {
		out[host] = len(endpoints) > 0
	}
	for host, c := range r.configs {
		if host == dockerHubHost {
			host = dockerHub // as images name it
		}
		out[host] = out[host] || c.auth != nil || c.tls != nil
	}
	maps.DeleteFunc(out, func(_ string, said bool) bool { return !said })
	return out
}

// hostDirectory is containerd's name for a host's directory.
func hostDirectory(host string) string {
	if host == anyRegistry {
		return "_default"
	}
	if i := strings.LastIndex(host, ":"); i > 0 {
		return host[:i] + "_" + host[i+1:] + "_"
	}
	return host
}

// hostsFile is written by hand: containerd tries endpoints in the order of the
// file, and a TOML library would sort them.
func (r Registries) hostsFile(host string) string {
	var b strings.Builder
	if server := r.server(host); server != "" {
		fmt.Fprintf(&b, "server = %s\n", quote(server))
	}
	writeTLS(&b, r.configOf(host).tls)
	for _, e := range r.mirrors[host] {
		fmt.Fprintf(&b, "\n[host.%s]\n", quote(e.String()))
		fmt.Fprintf(&b, "capabilities = [\"pull\", \"resolve\"]\n")
		if hasOwnPath(e) {
			fmt.Fprintf(&b, "override_path = true\n")
		}
		writeTLS(&b, r.configOf(e.Host).tls)
	}
	return b.String()
}

// server is the registry itself, which is tried last. Empty lets containerd
// choose, which for addresses of this machine means plain HTTP and no
// verification: not where TLS was configured.
func (r Registries) server(host string) string {
	for _, e := range r.mirrors[host] {
		if e.Host == apiHost(host) && !hasOwnPath(e) {
			return e.String()
		}
	}
	if host == anyRegistry || r.configOf(host).tls == nil {
		return ""
	}
	return "https://" + apiHost(host)
}

// configOf is what was said about this very host, as in k3s. The entry for any
// registry is for those that are named nowhere, never for a mirror: a mirror
// whose certificate nobody verifies could hand out anything as anyone's image.
// Docker's registry goes by both of its names.
func (r Registries) configOf(host string) registryConfig {
	if host == dockerHub || host == dockerHubHost {
		if c, ok := r.configs[dockerHubHost]; ok {
			return c
		}
		host = dockerHub
	}
	return r.configs[host]
}

// hasOwnPath tells whether an endpoint says where its API lies. Otherwise it is
// at /v2, as the specification has it.
func hasOwnPath(u *url.URL) bool {
	path := strings.TrimSuffix(u.Path, "/")
	return path != "" && path != "/v2"
}

func writeTLS(b *strings.Builder, t *registryTLS) {
	if t == nil {
		return
	}
	if t.caFile != "" {
		fmt.Fprintf(b, "ca = %s\n", quote(t.caFile))
	}
	if t.certFile != "" {
		fmt.Fprintf(b, "client = [[%s, %s]]\n", quote(t.certFile), quote(t.keyFile))
	}
	fmt.Fprintf(b, "skip_verify = %t\n", t.skipVerify)
}

// quote relies on JSON strings being a subset of TOML's.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // cannot be: every string has a JSON form
	}
	return string(b)
}

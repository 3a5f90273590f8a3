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

// dockerHub is a registry's name in image references, dockerHubHost the host that serves
// it.
const (
	dockerHub     = "docker.io"
	dockerHubHost = "registry-1.docker.io"
)

// Auths returns containerd's table of credentials, by the host that asks for them.
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

// apiHost returns the host that serves a registry's API.
func apiHost(host string) string {
	if host == dockerHub {
		return dockerHubHost
	}
	return host
}

// WriteHosts fills dir with the files in which containerd looks for the endpoints of a
// registry, dir/<host>/hosts.toml, and removes earlier ones. containerd reads them at
// every pull. They name files with keys but contain no secrets.
func (r Registries) WriteHosts(dir string) error {
	if _, err := removetree.Contents(dir, isHostsFile); err != nil {
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

// isHostsFile returns what happens to a file in the directory of WriteHosts: those that
// WriteHosts wrote are removed.
func isHostsFile(rel string) removetree.Verdict {
	switch dir, base := filepath.Split(rel); {
	case dir == "":
		return removetree.Enter
	case base == "hosts.toml":
		return removetree.Remove
	}
	return removetree.Keep
}

// hosts are the registries that the file has settings for. All others share the
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
	maps.DeleteFunc(out, func(_ string, hasSettings bool) bool { return !hasSettings })
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

// hostsFile returns the content of a host's file. It is made here, because containerd
// tries endpoints in the order of the file and a TOML library would sort them.
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

// server returns the URL of the registry itself, which is tried last. If it is empty
// containerd chooses, and for addresses of this machine it chooses plain HTTP without
// verification. That must not be where TLS was configured.
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

// configOf returns the config of exactly this host, as k3s does. The entry for any
// registry is never used for a mirror: a mirror whose certificate is not verified could
// serve anything as anyone's image. Docker's registry has two names, and either counts.
func (r Registries) configOf(host string) registryConfig {
	if host == dockerHub || host == dockerHubHost {
		if c, ok := r.configs[dockerHubHost]; ok {
			return c
		}
		host = dockerHub
	}
	return r.configs[host]
}

// hasOwnPath reports whether an endpoint has a path to its API. Without one the API is at
// /v2, as the specification says.
func hasOwnPath(u *url.URL) bool {
	path := strings.TrimSuffix(u.Path, "/")
	return path != "" && path != "/v2"
}

// writeTLS writes the TLS settings of a table.
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
		return `""` // never: every string has a JSON form
	}
	return string(b)
}

package images

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"go.yaml.in/yaml/v3"

	"brink/internal/yamlfile"
)

// Registries is the content of registries.yaml, in the format that k3s made
// common:
//
//	mirrors:                       # where images of a registry come from
//	  docker.io:                   # or "*" for all that are not named in this file
//	    endpoint:                  # tried in order, then the registry itself
//	      - https://mirror.example:5000
//	configs:                       # how to talk to a registry or mirror
//	  mirror.example:5000:
//	    auth:                      # username and password, auth or identity_token
//	      username: shop
//	      password: secret
//	    tls:
//	      ca_file: /etc/brink/mirror-ca.pem
//	      cert_file: /etc/brink/shop.pem
//	      key_file: /etc/brink/shop.key
//	      insecure_skip_verify: false
//
// It is read strictly: on a machine that nobody visits, an ignored typing error would show
// only when the first image is missing. k3s's rewriting of image names is an error, because
// containerd cannot do it. Credentials stay in memory; the rest goes to containerd's
// hosts.toml files, see WriteHosts.
type Registries struct {
	mirrors map[string][]*url.URL
	configs map[string]registryConfig
}

type registryConfig struct {
	auth *registryAuth
	tls  *registryTLS
}

type registryAuth struct {
	username, password, auth, identityToken string
}

type registryTLS struct {
	caFile, certFile, keyFile string
	skipVerify                bool
}

// anyRegistry is the entry for registries without an entry of their own.
const anyRegistry = "*"

// ReadRegistries reads and checks path, which need not exist: the command reports a file
// that the user named and that is missing. The error has a line "path:line: problem" for
// each problem.
func ReadRegistries(path string) (Registries, error) {
	text, err := os.ReadFile(path)
	if path == "" || errors.Is(err, fs.ErrNotExist) {
		return Registries{}, nil
	}
	if err != nil {
		return Registries{}, fmt.Errorf("reading registries: %w", err)
	}
	p := parser{yamlfile.NewReader(path)}
	return p.registries(text), p.Err()
}

// parser reads one registries file.
type parser struct{ *yamlfile.Reader }

func (p parser) registries(text []byte) Registries {
	r := Registries{mirrors: map[string][]*url.URL{}, configs: map[string]registryConfig{}}
	root := p.Document(text)
	if root == nil {
		return r
	}
	p.Mapping(root, "registries", yamlfile.Keys{
		"mirrors": func(n *yaml.Node) {
			p.eachHost(n, "mirrors", func(host string, n *yaml.Node) { r.mirrors[host] = p.mirror(n) })
		},
		"configs": func(n *yaml.Node) {
			p.eachHost(n, "configs", func(host string, n *yaml.Node) { r.configs[host] = p.config(host, n) })
		},
	})
	return r
}

func (p parser) eachHost(n *yaml.Node, section string, do func(string, *yaml.Node)) {
	p.Pairs(n, section, yamlfile.Plain, func(key, value *yaml.Node) {
		if key.Value != anyRegistry && !isHost(key.Value) {
			p.Fail(key, "%q in %s is not a registry: give host or host:port, without https:// and path", key.Value, section)
			return
		}
		do(key.Value, value)
	})
}

// isHost reports whether s is a host, or host:port.
func isHost(s string) bool {
	u, err := url.Parse("https://" + s)
	return err == nil && u.Host == s && u.Hostname() != "" && !strings.ContainsAny(s, " *") && validPort(u.Port())
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (p parser) mirror(n *yaml.Node) []*url.URL {
	var endpoints []*url.URL
	p.Mapping(n, "a mirror", yamlfile.Keys{
		"endpoint": func(n *yaml.Node) { endpoints = p.endpoints(n) },
		"rewrite": func(n *yaml.Node) {
			if len(n.Content) > 0 {
				p.Fail(n, "rewrite is not supported: let the mirror serve the images under their own names")
			}
		},
	})
	return endpoints
}

func (p parser) endpoints(n *yaml.Node) []*url.URL {
	if n.Kind != yaml.SequenceNode {
		p.Fail(n, "endpoint must be a list of URLs")
		return nil
	}
	var out []*url.URL
	for _, item := range n.Content {
		if u := p.endpoint(item); u != nil {
			out = append(out, u)
		}
	}
	return out
}

func (p parser) endpoint(n *yaml.Node) *url.URL {
	text := p.str(n)
	if text == "" {
		p.Fail(n, "an endpoint is empty: give a URL like https://mirror.example:5000")
		return nil
	}
	if !strings.Contains(text, "://") {
		text = defaultScheme(text) + "://" + text
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || !isHost(u.Host) {
		p.Fail(n, "%q is not a URL of a registry: give one like https://mirror.example:5000", n.Value)
		return nil
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// The value is not repeated: it may hold a password.
		p.Fail(n, "an endpoint has more than scheme, host, port and path: credentials belong in configs")
		return nil
	}
	u.Host = apiHost(u.Host)
	return u
}

// defaultScheme returns the scheme of an endpoint without one, by the rule of k3s and
// containerd: a registry that runs on this machine for a test has no certificate, unless
// its port is 443.
func defaultScheme(endpoint string) string {
	host, _, _ := strings.Cut(endpoint, "/")
	u, err := url.Parse("//" + host)
	if err == nil && u.Port() != "" && u.Port() != "443" && docker.IsLocalhost(host) {
		return "http"
	}
	return "https"
}

func (p parser) config(host string, n *yaml.Node) registryConfig {
	var c registryConfig
	p.Mapping(n, "the config of "+host, yamlfile.Keys{
		"auth": func(n *yaml.Node) { c.auth = p.auth(host, n) },
		"tls":  func(n *yaml.Node) { c.tls = p.tls(host, n) },
	})
	return c
}

func (p parser) auth(host string, n *yaml.Node) *registryAuth {
	var a registryAuth
	p.Mapping(n, "auth of "+host, yamlfile.Keys{
		"username":       func(n *yaml.Node) { a.username = p.str(n) },
		"password":       func(n *yaml.Node) { a.password = p.str(n) },
		"auth":           func(n *yaml.Node) { a.auth = p.str(n) },
		"identity_token": func(n *yaml.Node) { a.identityToken = p.str(n) },
	})
	if problem := a.problem(host); problem != "" {
		p.Fail(n, "auth of %s %s", host, problem)
	}
	return &a
}

// problem returns what is wrong with the credentials of a host, or "".
func (a registryAuth) problem(host string) string {
	ways := 0
	for _, given := range []string{a.username + a.password, a.auth, a.identityToken} {
		if given != "" {
			ways++
		}
	}
	switch {
	case host == anyRegistry:
		return "cannot be given: name the registry that shall receive the credentials"
	case ways == 0:
		return "is empty: give username and password, auth or identity_token"
	case ways > 1:
		return "has several credentials: give username and password, auth or identity_token"
	case (a.username == "") != (a.password == ""):
		return "needs both username and password"
	case a.auth != "" && !isBasicAuth(a.auth):
		return "has a key auth that is not the base64 of username:password"
	}
	return ""
}

func isBasicAuth(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && strings.Contains(string(b), ":")
}

func (p parser) tls(host string, n *yaml.Node) *registryTLS {
	var t registryTLS
	p.Mapping(n, "tls of "+host, yamlfile.Keys{
		"ca_file":              func(n *yaml.Node) { t.caFile = p.file(n, checkCA) },
		"cert_file":            func(n *yaml.Node) { t.certFile = p.file(n, nil) },
		"key_file":             func(n *yaml.Node) { t.keyFile = p.file(n, nil) },
		"insecure_skip_verify": func(n *yaml.Node) { t.skipVerify = p.boolean(n) },
	})
	switch {
	case (t.certFile == "") != (t.keyFile == ""):
		p.Fail(n, "tls of %s needs both cert_file and key_file", host)
	case t.certFile != "":
		if _, err := tls.LoadX509KeyPair(t.certFile, t.keyFile); err != nil {
			p.Fail(n, "cert_file and key_file of %s do not make a certificate with its key: %v", host, err)
		}
	}
	return &t
}

// file returns the path of a file that passes its check, or "".
func (p parser) file(n *yaml.Node, check func([]byte) error) string {
	path := p.str(n)
	if !filepath.IsAbs(path) {
		p.Fail(n, "%q is not the absolute path of a file", path)
		return ""
	}
	content, err := os.ReadFile(path)
	if err == nil && check != nil {
		err = check(content)
	}
	if err != nil {
		p.Fail(n, "%s cannot be used: %v", path, unwrapPath(err))
		return ""
	}
	return path
}

// unwrapPath drops the path from an error: the caller's message has it already.
func unwrapPath(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func checkCA(pem []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return errors.New("it contains no certificate in PEM form")
	}
	return nil
}

func (p parser) str(n *yaml.Node) string {
	if n.Kind != yaml.ScalarNode {
		p.Fail(n, "expected a text")
		return ""
	}
	if yamlfile.IsNull(n) {
		return ""
	}
	return n.Value
}

func (p parser) boolean(n *yaml.Node) bool {
	var b bool
	if n.Tag != "!!bool" || n.Decode(&b) != nil {
		p.Fail(n, "%q is neither true nor false", n.Value)
	}
	return b
}

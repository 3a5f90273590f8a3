package datastore

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"brink/internal/layout"
)

// Config says where state is kept.
type Config struct {
	// Dir holds the durable files: the SQLite database and the last saved
	// leases and events. Made with 0700 when missing.
	Dir string
	// SocketDir holds the unix sockets and, if it is on a tmpfs, a copy of the
	// leases. Made with 0700 when missing: whoever reaches a socket can read
	// every secret of the cluster.
	SocketDir string
	// Endpoint is empty for SQLite in Dir; otherwise a data source that kine
	// knows (postgres://..., mysql://...) or a comma-separated list of etcd
	// endpoints (http://, https://, unix://).
	Endpoint string
	// CAFile, CertFile and KeyFile are for TLS to a PostgreSQL or MySQL
	// Endpoint. To etcd the API server connects itself.
	CAFile, CertFile, KeyFile string
	// MaxOpenConnections is how many connections to a PostgreSQL or MySQL there
	// are at most, besides the one that watches it; 0 is the default.
	MaxOpenConnections int
	// ServerCA is the file with the cluster's CA, which may not be there yet. A
	// database elsewhere is refused when it belongs to a cluster with another one.
	ServerCA string
	// NodeName names this server to one elsewhere that finds the database in use.
	NodeName string
	// SetAsideDamaged allows a damaged database to be renamed and an empty one
	// to be started in its place. It is the user's word, never a default.
	SetAsideDamaged bool
	// Cluster returns the hash of the CA of the cluster that this state belongs to, and
	// the empty string before there is a CA. Nil takes all state in Dir for that of one
	// cluster.
	Cluster func() string
	// CeilingFile lies outside of Dir and keeps the highest revision for when Dir is
	// lost or replaced by an older copy. Empty is for no such file.
	CeilingFile string
	// Logger receives one line an event; nil is slog.Default.
	Logger *slog.Logger
}

// kind says which engine an Endpoint asks for.
type kind int

const (
	kindSQLite kind = iota
	kindSQL         // PostgreSQL or MySQL through kine
	kindEtcd        // not ours to serve
)

var schemes = map[string]kind{
	"postgres": kindSQL, "postgresql": kindSQL, "mysql": kindSQL,
	"http": kindEtcd, "https": kindEtcd, "unix": kindEtcd, "unixs": kindEtcd,
}

// Validate reports everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	for name, path := range map[string]string{"directory": c.Dir, "socket directory": c.SocketDir} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("datastore %s %q: must be an absolute path", name, path))
		}
	}
	if n := len(filepath.Join(c.SocketDir, volatileSocket)); n > layout.MaxSocket {
		errs = append(errs, fmt.Errorf("datastore socket directory %s: %d characters too long for a unix socket", c.SocketDir, n-layout.MaxSocket))
	}
	k, err := c.kind()
	if err == nil && k == kindSQL {
		_, err = c.parseEndpoint()
	}
	errs = append(errs, err)
	if c.MaxOpenConnections < 0 || c.MaxOpenConnections == 1 {
		errs = append(errs, fmt.Errorf("--datastore-max-open-connections=%d: must be 2 or more", c.MaxOpenConnections))
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, errors.New("datastore certificate and key: give both or neither"))
	}
	return errors.Join(errs...)
}

// kind never repeats the endpoint in an error: it may hold a password.
func (c Config) kind() (kind, error) {
	if c.Endpoint == "" {
		return kindSQLite, nil
	}
	first, _, _ := strings.Cut(c.Endpoint, ",")
	scheme, _, ok := strings.Cut(first, "://")
	if !ok {
		return 0, errors.New("datastore endpoint: must look like scheme://address")
	}
	k, ok := schemes[scheme]
	if !ok {
		return 0, fmt.Errorf("datastore endpoint: unknown scheme %q; known are postgres, mysql, http, https and unix", scheme)
	}
	return k, nil
}

// Served reports whether brink serves the state itself. It does not when Endpoint
// names an etcd: then the API server is etcd's client, with the certificates
// of the configuration, and has old revisions compacted.
func (c Config) Served() bool {
	k, err := c.kind()
	return err != nil || k != kindEtcd
}

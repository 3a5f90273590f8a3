// Package datastore is where the cluster's state lives. It serves etcd's gRPC
// API on unix sockets, so that the API server needs no other client.
//
// There are two stores, because there are two kinds of state:
//
//   - Durable: everything a user would miss. SQLite in one file, WAL, with
//     synchronous=FULL: a write that was acknowledged survives a power cut.
//     kine's own default is NORMAL, which survives a killed process only.
//   - Volatile: leases and events. They change every few seconds and mean
//     nothing after a power cut, so they live in memory and cost no flash.
//     They are saved on a clean stop and now and then, and their revisions
//     never run backwards, whatever happens. Leases do mean something when
//     brink alone was killed, as those who hold them live on: each second in
//     which one changes they are copied to a file beside the sockets, which
//     are in memory too. Elsewhere than on a tmpfs there is no such copy. See
//     leases.go.
//
// What kine gives is the translation of etcd's transactions to a log in SQL
// (pkg/server, pkg/logstructured, pkg/drivers/generic). Five parts of it are
// replaced here, each for a reason found by reading and measuring it:
//
//   - its SQLite driver: every update touches six indexes (three are ever
//     used), the file is rewritten by VACUUM at each start, and an update that met
//     a full disk passes for a conflict, which the API server retries in a hot
//     loop. See sqlite.go and backend.go.
//   - its log: rows that broke off pass for a complete list, and after writes that
//     overlapped the current revision stays behind. See log.go.
//   - its memory driver: each compaction leaves one entry more in its log than
//     it should and every watcher sees that entry again. See memory.go.
//   - its watch server: two timers a client, ten times a second, and a consistent
//     list may wait a second for its progress notification. See watch.go.
//   - its compaction: a failed commit ends the process, and an idle node would
//     write to flash every five minutes. See compact.go.
//
// What a card does to a file is expected and told: rows have checksums and are moved
// aside when they do not fit (sums.go, rows.go), indexes are made again (rebuild.go),
// a WAL that was lost is noticed (wal.go). Whatever was lost or put back, no revision
// is handed out twice (ceiling.go, raise.go).
//
// PostgreSQL and MySQL are kine's drivers under the log of log.go; an etcd
// endpoint is passed on to the API server. Leases and events go there too: the
// server that takes over when this one's machine is gone must find them. Such a
// database may be away at any time, and be somebody else's:
//
//   - It is asked whether it is there by one connection, the only judge. While
//     it is not, requests are answered Unavailable at once and kine's loops
//     wait. See link.go and externallog.go.
//   - It belongs to one cluster, known by the hash of its CA, and to one server
//     at a time, which renews its hold and writes no row without it. See
//     owner.go. Several servers on one database would need one to lead among
//     the controllers and leases that both see; until then they are refused.
//   - Names are compared by their bytes, or it is refused. See collation.go.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	// The databases a user can choose with Endpoint. kine's endpoint package
	// would link NATS and t4 as well.
	_ "github.com/k3s-io/kine/pkg/drivers/mysql"
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql"

	"brink/internal/lifecycle"
)

// Names of the files in Config.Dir and of the sockets in Config.SocketDir.
const (
	databaseFile   = "state.db"
	volatileFile   = "volatile.snapshot"
	revisionFile   = "volatile.revision"
	durableSocket  = "durable.sock"
	volatileSocket = "volatile.sock"
)

// maxSocketPath is the size of sun_path without its final zero.
const maxSocketPath = 107

// Config says where state is kept.
type Config struct {
	// Dir holds the durable files: the SQLite database and the last saved
	// leases and events. Made with 0700 when missing.
	Dir string
	// SocketDir holds the unix sockets and, if it is on a tmpfs, a copy of the
	// leases. Made with 0700 when missing: who reaches a socket reads every
	// secret of the cluster.
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
	// NodeName is what a server elsewhere is told that finds the database in use.
	NodeName string
	// SetAsideDamaged allows a damaged database to be renamed and an empty one
	// to be started in its place. It is the user's word, never a default.
	SetAsideDamaged bool
	// Cluster names the cluster that this state is of, by its CA, and is empty as
	// long as there is none; nil is for one state a directory. CeilingFile is a file
	// that lies elsewhere than Dir, in which the highest revision is remembered for
	// when Dir is lost or an older copy is put back; empty is none.
	Cluster     func() string
	CeilingFile string
	// Logger receives one line an event; nil is slog.Default.
	Logger *slog.Logger
}

// engine is what an Endpoint asks for.
type engine int

const (
	engineSQLite engine = iota
	engineSQL           // PostgreSQL or MySQL through kine
	engineEtcd          // not ours to serve
)

var schemes = map[string]engine{
	"postgres": engineSQL, "postgresql": engineSQL, "mysql": engineSQL,
	"http": engineEtcd, "https": engineEtcd, "unix": engineEtcd, "unixs": engineEtcd,
}

// Validate reports everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	for name, path := range map[string]string{"directory": c.Dir, "socket directory": c.SocketDir} {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("datastore %s %q: must be an absolute path", name, path))
		}
	}
	if n := len(filepath.Join(c.SocketDir, volatileSocket)); n > maxSocketPath {
		errs = append(errs, fmt.Errorf("datastore socket directory %s: %d characters too long for a unix socket", c.SocketDir, n-maxSocketPath))
	}
	e, err := c.engine()
	if err == nil && e == engineSQL {
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

// engine never repeats the endpoint in an error: it may hold a password.
func (c Config) engine() (engine, error) {
	if c.Endpoint == "" {
		return engineSQLite, nil
	}
	first, _, _ := strings.Cut(c.Endpoint, ",")
	scheme, _, ok := strings.Cut(first, "://")
	if !ok {
		return 0, errors.New("datastore endpoint: must look like scheme://address")
	}
	e, ok := schemes[scheme]
	if !ok {
		return 0, fmt.Errorf("datastore endpoint: unknown scheme %q; known are postgres, mysql, http, https and unix", scheme)
	}
	return e, nil
}

// Served says whether brink serves the state itself. It does not when Endpoint
// names an etcd: then the API server is etcd's client, with the certificates
// of the configuration, and has old revisions compacted.
func (c Config) Served() bool {
	e, err := c.engine()
	return err != nil || e != engineEtcd
}

// Store is the state of one server. Its components serve it.
type Store struct {
	cfg      Config
	engine   engine
	log      *slog.Logger
	created  bool       // New made the database
	disk     *condition // writes to the database
	snapshot *condition // writes of the volatile snapshot
	leases   leaseCopy
	remote   *remote // a database elsewhere; nil for SQLite

	ceiling    *ceiling
	unclean    bool // the last run did not end in order
	settled    bool // the last revision was written down at the end
	beganAnew  bool // a damaged database was set aside
	repaired   bool // rows were moved aside
	notes      notes
	aside      aside
	revisions  atomic.Pointer[checkedLog]  // nil while there is none
	volatile   atomic.Pointer[memoryStore] // nil while there is none
	cutWatches atomic.Pointer[func(int64)]
	witnesses  *witnesses

	compactEvery time.Duration // compactInterval but in tests
}

// New prepares the directories and checks the files. Nothing listens yet and
// nothing stays open. Every error is one line: what, where, what to do.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	log = log.With("component", "datastore")
	s := &Store{cfg: cfg, log: log, compactEvery: compactInterval}
	s.engine, _ = cfg.engine()
	s.disk = newCondition(log, s.database())
	s.snapshot = newCondition(log, s.path(volatileFile))
	s.snapshot.describe = fault.describeSnapshot
	s.ceiling = newCeiling(cfg, log)
	s.witnesses = newWitnesses()
	err := prepareDir(cfg.SocketDir)
	if err != nil {
		return nil, err
	}
	if err := prepareDir(cfg.Dir); err != nil {
		return nil, err
	}
	if s.engine != engineSQLite {
		s.remote, err = newRemote(cfg, log)
		return s, err
	}
	s.leases = newLeaseCopy(s.socket(leasesFile), cfg.SocketDir)
	return s, s.prepareDatabase()
}

func (s *Store) path(name string) string   { return filepath.Join(s.cfg.Dir, name) }
func (s *Store) socket(name string) string { return filepath.Join(s.cfg.SocketDir, name) }
func (s *Store) database() string          { return s.path(databaseFile) }

// DurableEndpoint is what the API server takes as --etcd-servers.
func (s *Store) DurableEndpoint() string {
	if s.engine == engineEtcd {
		return s.cfg.Endpoint
	}
	return "unix://" + s.socket(durableSocket)
}

// VolatileEndpoint is where leases and events belong. It is DurableEndpoint
// when several servers may share the state.
func (s *Store) VolatileEndpoint() string {
	if s.engine != engineSQLite {
		return s.DurableEndpoint()
	}
	return "unix://" + s.socket(volatileSocket)
}

// Health is nil while every write is accepted; otherwise it says since when
// and why not.
func (s *Store) Health() error {
	if s.remote != nil {
		return s.remote.link.health()
	}
	return s.disk.health()
}

// Warning is nil or says since when and why something does not work that a
// user should see to, although all writes are accepted.
func (s *Store) Warning() error {
	return errors.Join(s.snapshot.health(), s.notes.err(), s.missingObjects())
}

// Durable serves DurableEndpoint.
func (s *Store) Durable() lifecycle.Component {
	run := s.runSQLite
	switch s.engine {
	case engineSQL:
		run = s.runExternal
	case engineEtcd:
		run = s.runEtcd
	}
	return lifecycle.Component{Name: "datastore", Run: run}
}

// Volatile serves VolatileEndpoint.
func (s *Store) Volatile() lifecycle.Component {
	run := s.runVolatile
	if s.engine != engineSQLite {
		run = idle
	}
	return lifecycle.Component{Name: "datastore-volatile", Run: run}
}

// idle is the component of a store that someone else serves.
func idle(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}

// Package datastore keeps the cluster's state: the objects that users and programs write by
// the Kubernetes API, each under a key such as /registry/pods/default/web-1. Every write gets
// the next revision, a number by which clients compare what they have read.
//
// The API server can only talk to an etcd, a database that is too large for small boards. So
// this package serves etcd's gRPC API on unix sockets. The library kine translates it to SQL.
//
// There are two stores, because there are two kinds of state:
//
//   - Durable: everything a user would miss. SQLite in one file, with a write-ahead log
//     (WAL) and synchronous=FULL: an acknowledged write survives a power cut. kine's own
//     default is NORMAL, which survives only a killed process.
//   - Volatile: leases, by which their holders show that they live, and events, the notes
//     of what happened. They change every few seconds and mean nothing after a power
//     cut, so they live in memory and cost no flash. They are saved on
//     a clean stop and now and then, and their revisions never run backwards.
//     Leases still count when brink alone was killed, as their holders live on: at
//     most once a second they are copied to a file beside the sockets, if that is on
//     a tmpfs. See memory_leases.go.
//
// kine translates etcd's transactions to a log in SQL (pkg/server, pkg/logstructured,
// pkg/drivers/generic). Five parts of it are replaced here, each for a reason found
// by reading and measuring it:
//
//   - its SQLite driver: every update touches six indexes (three are ever used), the
//     file is rewritten by VACUUM at each start, and an update that met a full disk
//     passes for a conflict, which the API server retries in a hot loop. See
//     sqlite.go and guard.go.
//   - its log: rows that broke off pass for a complete list, and after overlapping
//     writes the current revision stays behind. See kine_log.go.
//   - its memory driver: each compaction leaves one entry too many in its log, and
//     every watcher sees that entry again. See memory.go.
//   - its watch server: it has two timers a client, ten times a second, and a
//     consistent list may wait a second for its progress notification. See watch.go.
//   - its compaction: a failed commit ends the process, and an idle node would write
//     to flash every five minutes. See kine_compact.go.
//
// Damage by a worn card is expected: rows have checksums and are moved aside when
// these do not match (sqlite_sums.go, sqlite_rows.go), indexes are made again
// (sqlite_rebuild.go), and the loss of a WAL is noticed (sqlite_wal.go). Whatever was
// lost or put back, no revision is handed out twice (revision_ceiling.go,
// revision_raise.go).
//
// PostgreSQL and MySQL are reached by kine's drivers under the log of kine_log.go; an
// etcd endpoint is passed on to the API server. Leases and events go there too: the
// server that takes over when this machine is gone must find them. Such a database may
// be away at any time, and may belong to somebody else:
//
//   - One connection of our own decides whether it answers. While it does not,
//     requests are answered Unavailable at once and kine's loops wait. See
//     remote_link.go, sql_dialect.go and etcd_registry.go.
//   - It belongs to one cluster, known by the hash of its CA, and to one server at a
//     time, which renews its hold and writes no row without it. See remote_hold.go.
//     Several servers on one database would need a leader among the controllers, and
//     leases that both see; until then they are refused.
//   - It must compare names by their bytes, or it is refused. See sql_collation.go.
//
// Files are grouped by prefix: sqlite_ is the database in a file, sql_ PostgreSQL and
// MySQL, etcd_ an etcd, remote_ what databases elsewhere have in common, memory_ the
// volatile store, kine_ what is corrected in kine for every SQL database, revision_ the
// promise that no revision is used twice, watch_ the watch server. They are one package,
// because all of them meet in the same types: an error travels through kine from the
// driver to the guard, and SQLite and the others share the ceiling, the log and Store.
// Packages of them would import each other in circles or export all of it.
//
// Read in this order: datastore.go, engine.go, sqlite_serve.go, serve.go, guard.go,
// kine_log.go, watch.go; then memory_serve.go and memory.go; then sql.go and
// remote_link.go; the checks of a start in sqlite_check.go last.
package datastore

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"brink/internal/layout"
	"brink/internal/lifecycle"
)

// Names of the files in Config.Dir and of the sockets in Config.SocketDir.
const (
	databaseFile   = layout.DatabaseFile
	volatileFile   = layout.VolatileSnapshot
	revisionFile   = layout.VolatileRevision
	durableSocket  = layout.DurableSocket
	volatileSocket = layout.VolatileSocket
)

// Store is the state of one server. Its components serve it.
type Store struct {
	cfg      Config
	engine   engine
	log      *slog.Logger
	prepared bool
	created  bool       // Prepare made the database
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

// Names of the components that Durable and Volatile return.
const (
	ComponentName         = "datastore"
	VolatileComponentName = "datastore-volatile"
)

// New checks the configuration. Nothing on disk is looked at or made: see Prepare.
func New(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	log = log.With("component", ComponentName)
	s := &Store{cfg: cfg, log: log, compactEvery: compactInterval}
	s.engine = s.newEngine()
	s.disk = newCondition(log, s.database())
	s.snapshot = newCondition(log, s.path(volatileFile))
	s.snapshot.describe = fault.describeSnapshot
	s.ceiling = newCeiling(cfg, log)
	s.witnesses = newWitnesses()
	return s, nil
}

// Prepare makes the directories and checks the files. Nothing listens yet and nothing stays
// open. Every error is one line: what, where, what to do.
func (s *Store) Prepare() error {
	if err := prepareDir(s.cfg.SocketDir); err != nil {
		return err
	}
	if err := prepareDir(s.cfg.Dir); err != nil {
		return err
	}
	err := s.engine.prepare()
	s.prepared = err == nil
	return err
}

// ifPrepared returns run, which without Prepare would find neither directories nor a database.
func (s *Store) ifPrepared(run func(context.Context, func()) error) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		if !s.prepared {
			return errors.New("the datastore was not prepared")
		}
		return run(ctx, ready)
	}
}

func (s *Store) path(name string) string   { return filepath.Join(s.cfg.Dir, name) }
func (s *Store) socket(name string) string { return filepath.Join(s.cfg.SocketDir, name) }
func (s *Store) database() string          { return s.path(databaseFile) }

// DurableEndpoint is what the API server takes as --etcd-servers.
func (s *Store) DurableEndpoint() string { return s.engine.durableEndpoint() }

// VolatileEndpoint is where leases and events belong. It is DurableEndpoint
// when several servers may share the state.
func (s *Store) VolatileEndpoint() string { return s.engine.volatileEndpoint() }

// Claim writes into a database elsewhere to which cluster it belongs. It is
// called once the cluster has a CA and waits for the database if need be.
func (s *Store) Claim(ctx context.Context) error { return s.engine.claim(ctx) }

// Health is nil while every write is accepted; otherwise it says since when
// and why not.
func (s *Store) Health() error { return s.engine.health() }

// Warning is nil or says since when and why something does not work that a
// user should see to, although all writes are accepted.
func (s *Store) Warning() error {
	return errors.Join(s.snapshot.health(), s.notes.err(), s.missingObjects())
}

// Durable serves DurableEndpoint.
func (s *Store) Durable() lifecycle.Component {
	return lifecycle.Component{Name: ComponentName, Run: s.ifPrepared(s.engine.runDurable)}
}

// Volatile serves VolatileEndpoint.
func (s *Store) Volatile() lifecycle.Component {
	return lifecycle.Component{Name: VolatileComponentName, Run: s.ifPrepared(s.engine.runVolatile)}
}

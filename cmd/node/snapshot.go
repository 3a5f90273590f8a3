package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"brink/datastore"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/release"
	"brink/server/snapshot"
)

// OwnState is what this brink writes into a server's state before it uses it.
func OwnState() snapshot.State {
	own := snapshot.State{Version: release.BuiltAs(), Format: snapshot.StateFormat}
	if v, err := release.Current(); err == nil {
		own.Kubernetes = v.Kubernetes()
	}
	return own
}

// beginState lets the server go on from the state in the data directory, which the process
// has taken.
func beginState(ctx context.Context, cfg Config) error {
	if cfg.Server == nil {
		return nil
	}
	return snapshot.Start{
		Layout: cfg.Layout, Own: OwnState(), Node: cfg.NodeName,
		Elsewhere: cfg.Server.DatastoreEndpoint != "", Without: cfg.NoUpgradeSnapshot,
		Log: slog.Default().With("component", "brink"),
	}.Begin(ctx)
}

// snapshotPath is where the status socket makes a snapshot.
const snapshotPath = "/snapshot"

// serveSnapshot answers with a snapshot of the running server. An error after the first byte
// cuts the answer short, which whoever reads it notices by the archive.
func (p *process) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	taken, err := p.takeSnapshot(r.Context())
	if err == nil {
		defer taken.Close()
		err = taken.Sound()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/zstd")
	if err := taken.Write(w); err != nil {
		slog.Warn("handing out a snapshot", "component", "brink", "error", err)
		panic(http.ErrAbortHandler)
	}
}

func (p *process) takeSnapshot(ctx context.Context) (*snapshot.Taken, error) {
	switch {
	case p.cfg.Server == nil:
		return nil, errAgentSnapshot
	case p.cfg.Server.DatastoreEndpoint != "":
		return nil, errElsewhere
	case !p.isReady(datastore.ComponentName):
		return nil, errors.New("the database is not open yet: try again when the server is ready")
	}
	return snapshot.Take(ctx, snapshot.Source{Layout: p.cfg.Layout, InUse: true, Node: p.cfg.NodeName, MadeBy: release.BuiltAs()})
}

var (
	errAgentSnapshot = errors.New("an agent has no state of the cluster: make the snapshot on a server")
	errElsewhere     = errors.New("the state is in a database elsewhere (--datastore-endpoint): make a backup with that database's own tools")
)

func (p *process) isReady(component string) bool {
	for _, c := range p.group.Status() {
		if c.Name == component {
			return c.State == lifecycle.Ready
		}
	}
	return false
}

// SaveSnapshot makes a snapshot in a new file, or in the data directory if to is empty. It
// returns the file. A running server makes it; else it is made from what lies there, and
// elsewhere says that this is not the state.
func SaveSnapshot(ctx context.Context, l layout.Layout, to string, elsewhere bool) (path string, _ snapshot.Manifest, err error) {
	status, err := AskStatus(ctx, l)
	isRunning := err == nil
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return "", snapshot.Manifest{}, err
	}
	name := status.Node
	if !isRunning {
		name, _ = os.Hostname()
	}
	if to == "" {
		to = l.Snapshot(snapshot.FileName(layout.AskedSnapshot+filepath.Base(name), time.Now()))
	}
	if isRunning {
		m, err := saveFromRunning(ctx, l, to)
		return to, m, err
	}
	if elsewhere {
		return "", snapshot.Manifest{}, errElsewhere
	}
	m, err := saveStopped(ctx, l, to, name)
	return to, m, err
}

func saveStopped(ctx context.Context, l layout.Layout, to, name string) (snapshot.Manifest, error) {
	if _, err := os.Stat(l.Database()); err != nil {
		return snapshot.Manifest{}, fmt.Errorf("%w in %s", datastore.ErrNoDatabase, l.DB())
	}
	unlock, err := lockDataDir(l)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	defer unlock()
	return snapshot.Save(ctx, snapshot.Source{Layout: l, Node: name, MadeBy: release.BuiltAs()}, to)
}

func saveFromRunning(ctx context.Context, l layout.Layout, to string) (snapshot.Manifest, error) {
	if err := os.MkdirAll(l.Snapshots(), 0o700); err != nil {
		return snapshot.Manifest{}, err
	}
	resp, err := askSocket(ctx, l, http.MethodPost, snapshotPath, 0)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return snapshot.Manifest{}, errors.New("the brink that runs is older than this one and makes no snapshots: restart it first, or stop it")
	default:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return snapshot.Manifest{}, errors.New(strings.TrimSpace(string(text)))
	}
	return snapshot.WriteFile(l, to, func(w io.Writer) error {
		_, err := io.Copy(w, resp.Body)
		return err
	})
}

// RestoreSnapshot puts the snapshot in a file into the place of the state in a data directory,
// which no brink uses.
func RestoreSnapshot(ctx context.Context, l layout.Layout, file string, replace bool) (snapshot.Restored, error) {
	unlock, err := lockDataDir(l)
	if err != nil {
		return snapshot.Restored{}, err
	}
	defer unlock()
	return snapshot.Restore{Layout: l, File: file, Replace: replace, Own: OwnState()}.Run(ctx)
}

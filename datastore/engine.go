package datastore

import "context"

// engine is a way to keep the state. New chooses it once, by Config.Endpoint, and
// nothing else in Store asks which one it is.
type engine interface {
	// prepare checks what is there already. Nothing runs yet.
	prepare() error
	// durableEndpoint and volatileEndpoint are where the API server finds the state.
	durableEndpoint() string
	volatileEndpoint() string
	// runDurable and runVolatile serve the endpoints until ctx is done.
	runDurable(ctx context.Context, ready func()) error
	runVolatile(ctx context.Context, ready func()) error
	// claim writes down which cluster the state belongs to.
	claim(ctx context.Context) error
	// health is nil while every write is accepted, otherwise since when and why not.
	health() error
}

func (s *Store) newEngine() engine {
	switch kind, _ := s.cfg.kind(); kind {
	case kindSQL:
		return sqlEngine{remoteEngine{s}}
	case kindEtcd:
		return etcdEngine{remoteEngine{s}}
	}
	return sqliteEngine{s}
}

// runNothing is the component of a store that another component or machine serves.
func runNothing(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}

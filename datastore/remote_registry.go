package datastore

import (
	"context"
	"errors"
	"time"
)

// errTaken says that another server holds the database now.
var errTaken = errors.New("another server has taken it over")

// claim is what a database says about whom it belongs to.
type claim struct {
	cluster string // hash of the CA, as in join tokens; empty: not said yet
	holder  string // name of the hold; empty: released
	node    string // of the holder, for people
	counter int64  // goes up with each renewal
	age     time.Duration
}

// registry is the place in a database where its claim is written. All changes
// are conditional, so of two servers that try one succeeds.
type registry interface {
	// read returns the claim, and makes the place for it when there is none.
	read(ctx context.Context) (claim, error)
	// take makes holder the holder if nothing has changed since seen was read.
	take(ctx context.Context, seen claim, holder, node string) (bool, error)
	// renew raises the counter and reports whether holder still holds.
	renew(ctx context.Context, holder string) (bool, error)
	// release gives the hold back if it is holder's.
	release(ctx context.Context, holder string) error
	// belong writes the cluster if holder holds.
	belong(ctx context.Context, holder, cluster string) (bool, error)
}

// rootCAKey is the key under which the API server keeps the ConfigMap with the cluster's
// CA. Every cluster has it.
const rootCAKey = "/registry/configmaps/kube-system/kube-root-ca.crt"

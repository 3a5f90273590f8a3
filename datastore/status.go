package datastore

import (
	"context"
	"errors"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/mattn/go-sqlite3"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// trouble collects what went wrong below kine during one request. kine drops
// such errors: rows.Err is never asked, so a list that broke off looks
// complete, and a failed insert in Update or Delete is taken for a conflict.
type trouble struct {
	mu  sync.Mutex
	err error
}

type troubleKey struct{}

// withTrouble returns a context to pass through kine to the driver. It is cut
// off from ctx: a driver call that can be interrupted costs a goroutine for
// every row, and all calls are short.
func withTrouble(ctx context.Context) (context.Context, *trouble) {
	t := new(trouble)
	return context.WithValue(context.WithoutCancel(ctx), troubleKey{}, t), t
}

func noteTrouble(ctx context.Context, err error) {
	t, ok := ctx.Value(troubleKey{}).(*trouble)
	if !ok || isConflict(err) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
}

func isConflict(err error) bool {
	var sqliteErr sqlite3.Error
	return errors.As(err, &sqliteErr) && sqliteErr.ExtendedCode == sqlite3.ErrConstraintUnique
}

// result returns the error with which a request ends.
func (t *trouble) result(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		err = t.err
	}
	return toStatus(err)
}

// toStatus turns an error into what etcd would answer. kine compares its own
// errors by identity, so they pass as they are.
func toStatus(err error) error {
	switch err {
	case nil, server.ErrKeyExists, server.ErrCompacted, server.ErrFutureRev, server.ErrNotSupported:
		return err
	}
	switch classify(err) {
	case faultFull:
		return quietError{status.Convert(rpctypes.ErrGRPCNoSpace)}
	case faultDamaged:
		return quietError{status.Convert(rpctypes.ErrGRPCCorrupt)}
	case faultBusy:
		return quietError{status.New(codes.Unavailable, "datastore: "+err.Error())}
	}
	if s, ok := status.FromError(err); ok {
		return quietError{s}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return quietError{status.FromContextError(err)}
	}
	return quietError{status.New(codes.Internal, "datastore: "+err.Error())}
}

// quietError travels through kine without being logged there: kine prints the
// whole request with every error but a cancellation, and requests hold
// secrets. gRPC sees the status.
type quietError struct{ status *status.Status }

func (e quietError) Error() string { return e.status.Message() }

func (e quietError) GRPCStatus() *status.Status { return e.status }

func (e quietError) Is(target error) bool { return target == context.Canceled }

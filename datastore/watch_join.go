package datastore

import (
	"context"
	"errors"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// create makes a watch and answers the request for it.
func (h *hub) create(ctx context.Context, st *stream, r *etcdserverpb.WatchCreateRequest) {
	if r.WatchId != 0 || r.StartRevision < 0 { // kine does not know client-chosen ids either
		h.refuse(st, r)
		return
	}
	w := newWatch(r)
	// Not h.seen, which may lag: a watch without a start revision begins after everything
	// that was acknowledged before.
	head, err := h.log.CurrentRevision(ctx)
	h.mu.Lock()
	st.lastID++
	w.id = st.lastID
	st.joining++ // until joinAt or fail
	h.queueLocked(st, 0, &etcdserverpb.WatchResponse{Header: header(head), WatchId: w.id, Created: true})
	h.mu.Unlock()
	start := r.StartRevision
	if start == 0 {
		start = head + 1
	}
	if err == nil {
		err = h.join(ctx, st, w, start)
	}
	if err != nil {
		h.fail(st, w, err)
	}
}

func newWatch(r *etcdserverpb.WatchCreateRequest) *watch {
	w := &watch{key: string(r.Key), end: string(r.RangeEnd), prevKV: r.PrevKv, progress: r.ProgressNotify}
	if w.key == "compact_rev_key" {
		w.key = compactRevKey // as kine's server does; see guard
	}
	for _, filter := range r.Filters {
		w.noPut = w.noPut || filter == etcdserverpb.WatchCreateRequest_NOPUT
		w.noDelete = w.noDelete || filter == etcdserverpb.WatchCreateRequest_NODELETE
	}
	return w
}

func (h *hub) refuse(st *stream, r *etcdserverpb.WatchCreateRequest) {
	err := server.ErrInvalidWatch
	if r.StartRevision < 0 {
		err = server.ErrCompacted
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queueLocked(st, 0, &etcdserverpb.WatchResponse{
		Header: header(h.seen), WatchId: noWatch, Created: true, Canceled: true, CancelReason: err.Error(),
	})
}

// errCompactedAt is ErrCompacted with the revision.
type errCompactedAt int64

func (errCompactedAt) Error() string { return server.ErrCompacted.Error() }

// errDropped ends what is done for a stream that was dropped.
var errDropped = errors.New("datastore: watch stream dropped")

// join sends w the events from revision start on. When w has caught up with the hub, it becomes
// one of the stream's watches. join gives up when the client leaves or the stream is dropped.
func (h *hub) join(ctx context.Context, st *stream, w *watch, start int64) error {
	for {
		if h.joinAt(st, w, start-1) {
			return nil
		}
		events, upTo, err := h.log.since(ctx, w.key, w.end, start)
		if errors.Is(err, server.ErrCompacted) {
			return errCompactedAt(upTo)
		}
		if err != nil {
			return err
		}
		if err := h.sendPast(ctx, st, w, events); err != nil {
			return err
		}
		start = max(start, upTo+1)
	}
}

// sendPast queues a page of the past when the client has taken the one before.
// The past is not lost by waiting, so it does not count towards maxQueued: a
// client with more of it to read than that would be cut off each time it came.
func (h *hub) sendPast(ctx context.Context, st *stream, w *watch, events []*server.Event) error {
	if err := h.waitTaken(ctx, st); err != nil {
		return err
	}
	converted := make([]*mvccpb.Event, len(events))
	for i, e := range events {
		converted[i] = toEvent(e)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if response, _ := w.response(events, converted); response != nil {
		w.active = true
		h.queueLocked(st, 0, response)
		st.past = true
	}
	return nil
}

func (h *hub) waitTaken(ctx context.Context, st *stream) error {
	for {
		h.mu.Lock()
		_, alive := h.streams[st]
		past := st.past
		h.mu.Unlock()
		switch {
		case !alive:
			return errDropped
		case ctx.Err() != nil:
			return ctx.Err()
		case !past:
			return nil
		}
		select {
		case <-st.taken:
		case <-ctx.Done():
		}
	}
}

// joinAt puts w among the watches if nothing after revision sent has been handed out yet,
// and reports whether it did. A report of progress that the client has asked for waits
// until then.
func (h *hub) joinAt(st *stream, w *watch, sent int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen > sent {
		return false
	}
	w.after = sent
	st.watches[w.id] = w
	st.joining--
	h.answerLocked(st)
	return true
}

func (h *hub) fail(st *stream, w *watch, err error) {
	r := &etcdserverpb.WatchResponse{WatchId: w.id, Canceled: true, CancelReason: err.Error()}
	if compacted, ok := err.(errCompactedAt); ok {
		r.CompactRevision = int64(compacted)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r.Header = header(h.seen)
	h.queueLocked(st, 0, r)
	st.joining--
	h.answerLocked(st)
}

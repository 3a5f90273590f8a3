package datastore

import (
	"context"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

const (
	// retryWatch is the pause before a lost log is followed again.
	retryWatch = 100 * time.Millisecond
)

// history is a store whose past can be read.
type history interface {
	server.Backend
	// since returns events of a range of keys, from revision from on. It may return only
	// the first of them: upTo is the revision up to which they are complete. With
	// ErrCompacted, upTo is the revision up to which everything was removed.
	since(ctx context.Context, key, end string, from int64) (events []*server.Event, upTo int64, err error)
}

// hub is the watch server. One reader follows the log and sends every event to the watches
// whose range of keys it is in.
//
// kine starts three goroutines for each watch and wakes all of them for each
// write, and runs two timers for each client, one of them ten times a second,
// to answer requests for progress; the API server has 80 clients. As the
// events of its watches pass through several queues, it cannot know whether a
// watch is up to date and guesses. Here everything for a client goes through
// one queue: what is put behind the events is sent after them, so progress is
// exact and immediate. The API server asks for it with every consistent list.
type hub struct {
	log history

	mu      sync.Mutex
	seen    int64 // everything up to here has been handed out
	streams map[*stream]struct{}
}

var _ etcdserverpb.WatchServer = (*hub)(nil)

func newHub(ctx context.Context, log history) (*hub, error) {
	head, err := log.CurrentRevision(ctx)
	if err != nil {
		return nil, err
	}
	return &hub{log: log, seen: head, streams: map[*stream]struct{}{}}, nil
}

// run follows the log until ctx is done.
func (h *hub) run(ctx context.Context) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		followCtx, cancel := context.WithCancel(ctx)
		result := withoutGap(h.log.Watch(followCtx, "", "", h.position()+1))
		if result.CompactRevision != 0 {
			h.restart(result.CompactRevision)
		} else {
			h.follow(ctx, result, tick.C)
		}
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(retryWatch):
		}
	}
	h.dropAll()
}

// follow publishes what the log reports, until ctx is done or the store closes the channel, as
// it does when its reader is too slow. run then follows the log again, from where the hub is.
func (h *hub) follow(ctx context.Context, result server.WatchResult, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-result.Errorc:
			return
		case <-tick:
			h.tick()
		case events, ok := <-result.Events:
			if !ok {
				return
			}
			h.publish(events)
		}
	}
}

func (h *hub) position() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen
}

// restart skips events that were removed before they were published, and ends all streams.
// Their clients come back, and are refused with the error that they missed something.
func (h *hub) restart(compacted int64) {
	h.mu.Lock()
	h.seen = max(h.seen, compacted)
	h.mu.Unlock()
	h.dropAll()
}

// publish sends a batch of events to the watches.
func (h *hub) publish(events []*server.Event) {
	if len(events) == 0 {
		return
	}
	converted := make([]*mvccpb.Event, len(events))
	for i, e := range events {
		converted[i] = toEvent(e)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = max(h.seen, events[len(events)-1].KV.ModRevision)
	for st := range h.streams {
		for _, w := range st.watches {
			h.sendLocked(st, w, events, converted)
		}
		h.answerLocked(st)
	}
}

// sendLocked queues those of events that w asked for.
func (h *hub) sendLocked(st *stream, w *watch, events []*server.Event, converted []*mvccpb.Event) {
	if response, size := w.response(events, converted); response != nil {
		w.active = true
		h.queueLocked(st, size, response)
	}
}

// answerLocked sends the progress that a client has asked for, once the hub has published that
// revision. The answer is about all watches of the stream, so it waits for those that are
// joining and have not been sent the past yet.
func (h *hub) answerLocked(st *stream) {
	if st.want == 0 || h.seen < st.want || st.joining > 0 {
		return
	}
	st.want = 0
	h.queueLocked(st, 0, &etcdserverpb.WatchResponse{Header: header(h.seen), WatchId: noWatch})
}

// tick tells idle watches how far the store is.
func (h *hub) tick() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for st := range h.streams {
		for _, w := range st.watches {
			if w.progress && !w.active {
				h.queueLocked(st, 0, &etcdserverpb.WatchResponse{Header: header(h.seen), WatchId: w.id})
			}
			w.active = false
		}
	}
}

func (h *hub) requestProgress(ctx context.Context, st *stream) {
	head, err := h.log.CurrentRevision(ctx)
	if err != nil {
		return // the client asks again
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	st.want = head
	h.answerLocked(st)
}

func (h *hub) cancel(st *stream, id int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := st.watches[id]; !ok {
		return
	}
	delete(st.watches, id)
	h.queueLocked(st, 0, &etcdserverpb.WatchResponse{Header: header(h.seen), WatchId: id, Canceled: true})
}

package datastore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxQueued is how many bytes of new events may wait for one client. Beyond
	// it the client is cut off; etcd's comes back and resumes where it was.
	maxQueued = 32 << 20
	// noWatch is etcd's clientv3.InvalidWatchID: the response is for all
	// watches of a stream, or for none.
	noWatch = -1
	// retryWatch is the pause before a lost log is followed again.
	retryWatch = 100 * time.Millisecond
)

// history is a store whose past can be read.
type history interface {
	server.Backend
	// since returns the events of a range from revision from on, all or the
	// first of them, and the revision up to which the range is complete with
	// them. With ErrCompacted the revision is the one below which nothing is
	// left.
	since(ctx context.Context, key, end string, from int64) ([]*server.Event, int64, error)
}

// hub is the watch server. One reader follows the log and hands every event to
// the watches whose range it is in.
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

// stream is one client's connection with its watches.
type stream struct {
	queue   []*etcdserverpb.WatchResponse
	bytes   int           // of new events in queue
	past    bool          // queue has a page for the watch that is joining
	wake    chan struct{} // queue has something, or the stream was dropped
	taken   chan struct{} // queue was taken, or the stream was dropped
	watches map[int64]*watch
	lastID  int64
	want    int64 // progress is wanted when seen reaches it; 0: not wanted
	joining int   // watches that were created and have not caught up
}

func newStream() *stream {
	return &stream{wake: make(chan struct{}, 1), taken: make(chan struct{}, 1), watches: map[int64]*watch{}}
}

type watch struct {
	id              int64
	key, end        string
	after           int64 // events up to here were sent before it joined
	prevKV          bool
	noPut, noDelete bool
	progress        bool
	active          bool // had events since the last tick of progress
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

// follow ends when the store closes the channel: it does with a reader that is
// too slow, which then goes on from where it was.
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

// restart gives up on events that are gone. All clients must come back and
// learn for themselves that they missed something.
func (h *hub) restart(compacted int64) {
	h.mu.Lock()
	h.seen = max(h.seen, compacted)
	h.mu.Unlock()
	h.dropAll()
}

func (h *hub) dropAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for st := range h.streams {
		h.dropLocked(st)
	}
}

// dropLocked ends a stream; its handler notices by the missing entry.
func (h *hub) dropLocked(st *stream) {
	delete(h.streams, st)
	st.queue, st.bytes, st.past = nil, 0, false
	signal(st.wake)
	signal(st.taken)
}

// publish hands a batch of events to the watches.
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

// response is nil when w asked for none of the events. size is in bytes.
func (w *watch) response(events []*server.Event, converted []*mvccpb.Event) (response *etcdserverpb.WatchResponse, size int) {
	var matching []*mvccpb.Event
	for i, e := range events {
		if e.KV.ModRevision <= w.after || !inRange(e.KV.Key, w.key, w.end) || (e.Delete && w.noDelete) || (!e.Delete && w.noPut) {
			continue
		}
		out := converted[i]
		if !w.prevKV && out.PrevKv != nil {
			out = &mvccpb.Event{Type: out.Type, Kv: out.Kv}
		}
		matching = append(matching, out)
		size += entryOverhead + len(e.KV.Value)
	}
	if len(matching) == 0 {
		return nil, 0
	}
	last := matching[len(matching)-1].Kv.ModRevision
	return &etcdserverpb.WatchResponse{Header: header(last), WatchId: w.id, Events: matching}, size
}

func (h *hub) queueLocked(st *stream, size int, responses ...*etcdserverpb.WatchResponse) {
	if _, ok := h.streams[st]; !ok {
		return
	}
	if st.bytes += size; st.bytes > maxQueued {
		h.dropLocked(st)
		return
	}
	st.queue = append(st.queue, responses...)
	signal(st.wake)
}

// signal wakes who waits on c, or whoever comes next.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// answerLocked sends the progress that was asked for as soon as it is true. It
// speaks for all watches of the stream, so not before one that is joining has
// been sent the past.
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

// Watch serves one client.
func (h *hub) Watch(client etcdserverpb.Watch_WatchServer) error {
	st := newStream()
	h.mu.Lock()
	h.streams[st] = struct{}{}
	h.mu.Unlock()
	defer h.leave(st)

	received := make(chan error, 1)
	go func() { received <- h.receive(client, st) }()
	for {
		select {
		case err := <-received:
			return err
		case <-st.wake:
		}
		responses, alive := h.take(st)
		if !alive {
			return status.Error(codes.Unavailable, "datastore: watch cannot go on, resume it")
		}
		for _, r := range responses {
			if err := client.Send(r); err != nil {
				return err
			}
		}
	}
}

func (h *hub) leave(st *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, st)
}

func (h *hub) take(st *stream) ([]*etcdserverpb.WatchResponse, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, alive := h.streams[st]
	queue := st.queue
	st.queue, st.bytes, st.past = nil, 0, false
	signal(st.taken)
	return queue, alive
}

// receive handles a client's requests one after the other. So a watch has been
// brought up to date before a request for progress that follows it is seen.
func (h *hub) receive(client etcdserverpb.Watch_WatchServer, st *stream) error {
	for {
		msg, err := client.Recv()
		if err != nil {
			return err
		}
		switch {
		case msg.GetCreateRequest() != nil:
			h.create(client.Context(), st, msg.GetCreateRequest())
		case msg.GetCancelRequest() != nil:
			h.cancel(st, msg.GetCancelRequest().WatchId)
		case msg.GetProgressRequest() != nil:
			h.requestProgress(client.Context(), st)
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

func (h *hub) create(ctx context.Context, st *stream, r *etcdserverpb.WatchCreateRequest) {
	if r.WatchId != 0 || r.StartRevision < 0 { // kine does not know client-chosen ids either
		h.refuse(st, r)
		return
	}
	w := newWatch(r)
	// Not h.seen: what was acknowledged before a watch from now on is past.
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
		w.key = compactRevKey // as kine's server does; see guarded
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

// join sends w what happened from revision start on, and puts it among the
// others when it has caught up with what was handed out to them. It goes on
// until then, the client leaves or the stream is dropped.
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

// joinAt succeeds when nothing after revision sent was handed out yet. Only
// then is progress true again that was asked for before.
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

func header(revision int64) *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: revision}
}

func toEvent(e *server.Event) *mvccpb.Event {
	out := &mvccpb.Event{Kv: toKeyValue(e.KV)}
	if e.Delete {
		out.Type = mvccpb.DELETE
	}
	if !e.Create {
		out.PrevKv = toKeyValue(e.PrevKV)
	}
	return out
}

func toKeyValue(kv *server.KeyValue) *mvccpb.KeyValue {
	if kv == nil {
		return nil
	}
	return &mvccpb.KeyValue{
		Key: []byte(kv.Key), Value: kv.Value, Version: kv.Version, Lease: kv.Lease,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
	}
}

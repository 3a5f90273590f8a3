package datastore

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxQueued is how many bytes of new events may wait for one client. Beyond
	// it the client is cut off; etcd's comes back and resumes where it was.
	maxQueued = 32 << 20
)

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

// signal wakes the goroutine that waits on c, or else the next one to wait.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
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

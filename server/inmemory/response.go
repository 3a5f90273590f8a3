package inmemory

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// maxBuffered is how many bytes a handler may write ahead of its reader: enough for any
// ordinary list at once, and little when a reader is stuck.
const maxBuffered = 256 << 10

// responseWriter is the handler's side of one request. It has the interfaces of an HTTP/2
// server's writer (Flusher and CloseNotifier, no Hijacker), which the API server's filters
// check for.
type responseWriter struct {
	ctx     context.Context
	header  http.Header
	body    *body
	started chan struct{} // closed when status and sent are final

	once   sync.Once
	status int
	sent   http.Header
}

func newResponseWriter(ctx context.Context, cancel context.CancelFunc) *responseWriter {
	b := &body{cancel: cancel}
	b.changed.L = &b.mu
	context.AfterFunc(ctx, func() { b.closeRead(context.Cause(ctx)) })
	return &responseWriter{ctx: ctx, header: http.Header{}, body: b, started: make(chan struct{})}
}

func (w *responseWriter) Header() http.Header { return w.header }

func (w *responseWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 {
		return
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.started)
	})
}

func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.write(p)
}

// Flush sends the headers. What was written is visible to the reader already.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify serves filters that predate request contexts.
func (w *responseWriter) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { gone <- true })
	return gone
}

// finish ends the response; aborted means that the handler panicked. A handler that ended
// because its context was done has not completed the response either, and may be here before
// the body has noticed that.
func (w *responseWriter) finish(aborted bool) {
	switch {
	case w.ctx.Err() != nil:
		w.body.closeRead(context.Cause(w.ctx))
	case aborted:
		w.WriteHeader(http.StatusInternalServerError)
		w.body.closeWrite(io.ErrUnexpectedEOF)
	default:
		w.WriteHeader(http.StatusOK)
		w.body.closeWrite(io.EOF)
	}
}

func (w *responseWriter) response(req *http.Request) *http.Response {
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         "HTTP/2.0",
		ProtoMajor:    2,
		Header:        w.sent,
		Body:          w.body,
		ContentLength: -1,
		Request:       req,
	}
}

// body is a pipe with a bounded buffer: io.Pipe would make the handler wait
// for the reader at each of its many small writes.
type body struct {
	mu      sync.Mutex
	changed sync.Cond // on mu
	pending []byte
	err     error // what the reader gets once pending is empty
	gone    error // why the reader is gone: closed or cancelled
	cancel  context.CancelFunc
}

// write takes p as the reader makes room for it: handlers encode a list of any length into
// one write.
func (b *body) write(p []byte) (written int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for written < len(p) {
		for len(b.pending) >= maxBuffered && b.gone == nil {
			b.changed.Wait()
		}
		if b.gone != nil {
			return written, b.gone
		}
		n := min(maxBuffered-len(b.pending), len(p)-written)
		b.pending = append(b.pending, p[written:written+n]...)
		written += n
		b.changed.Broadcast()
	}
	return written, nil
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.pending) == 0 && b.err == nil && b.gone == nil {
		b.changed.Wait()
	}
	switch {
	case len(b.pending) == 0 && b.err != nil:
		return 0, b.err
	case b.gone != nil:
		return 0, b.gone
	}
	n := copy(p, b.pending)
	b.pending = b.pending[n:]
	if len(b.pending) == 0 {
		// A watch lasts for minutes and is mostly silent: release the array.
		b.pending = nil
	}
	b.changed.Broadcast()
	return n, nil
}

// Close tells the handler that its reader is gone.
func (b *body) Close() error {
	b.closeRead(http.ErrBodyReadAfterClose)
	return nil
}

// closeRead ends reading and writing. The first reason is kept.
func (b *body) closeRead(reason error) {
	b.mu.Lock()
	if b.gone == nil {
		b.gone = reason
	}
	b.changed.Broadcast()
	b.mu.Unlock()
	b.cancel()
}

// closeWrite sets how the response ends. A response that was abandoned before must not look
// complete.
func (b *body) closeWrite(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone == nil {
		b.err = err
	}
	b.changed.Broadcast()
}

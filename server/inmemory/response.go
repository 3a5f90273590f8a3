package inmemory

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// maxBuffered bounds what a handler may write ahead of its reader, in bytes:
// room for any ordinary list in one go, small against a stuck reader.
const maxBuffered = 256 << 10

// responseWriter is the handler's side of one request. It is shaped like the
// writer of an HTTP/2 server (Flusher and CloseNotifier, no Hijacker), which
// the API server's filters check for.
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

// Flush sends headers; what was written is visible to the reader already.
func (w *responseWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify serves filters that predate request contexts.
func (w *responseWriter) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { gone <- true })
	return gone
}

// finish marks the end of the response, cut short when the handler panicked. A
// handler that ended because its context did has not completed it either, and
// may be here before the body has noticed.
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
	gone    error // why nobody reads any more: closed or cancelled
	cancel  context.CancelFunc
}

// write takes p in as the reader makes room for it: handlers encode a list of
// any length into one write.
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
		// A watch lives for minutes and is mostly silent: give the array back.
		b.pending = nil
	}
	b.changed.Broadcast()
	return n, nil
}

// Close tells the handler that nobody reads on.
func (b *body) Close() error {
	b.closeRead(http.ErrBodyReadAfterClose)
	return nil
}

// closeRead ends reading and writing; the first reason stays.
func (b *body) closeRead(reason error) {
	b.mu.Lock()
	if b.gone == nil {
		b.gone = reason
	}
	b.changed.Broadcast()
	b.mu.Unlock()
	b.cancel()
}

// closeWrite sets how the response ends. One that was given up before it was
// complete must not look complete.
func (b *body) closeWrite(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone == nil {
		b.err = err
	}
	b.changed.Broadcast()
}

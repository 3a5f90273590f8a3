package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"time"

	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/rootsocket"
)

// nodeStatus is what `brink status` prints, as JSON on the status socket.
type nodeStatus struct {
	Node       string             `json:"node"`
	Role       string             `json:"role"`
	PID        int                `json:"pid"`
	Started    time.Time          `json:"started"`
	Ready      bool               `json:"ready"`
	DataDir    string             `json:"dataDir"`
	Problems   []string           `json:"problems,omitempty"` // for which it is not ready
	Warnings   []string           `json:"warnings,omitempty"` // for which it may not be after the next restart
	Components []lifecycle.Status `json:"components"`
	Versions   []component        `json:"versions"`
}

// statusServer answers on a unix socket that only root can reach.
type statusServer struct {
	layout   layout.Layout
	snapshot func() nodeStatus
	pprof    bool
}

func (s statusServer) component() lifecycle.Component {
	return lifecycle.Component{Name: "status", Run: s.run}
}

func (s statusServer) run(ctx context.Context, ready func()) error {
	listener, err := rootsocket.Listen(s.layout.StatusSocket())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	ready()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s statusServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.snapshot())
	})
	if s.pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// errNotRunning means that nobody answers on the status socket.
var errNotRunning = errors.New("brink is not running")

// askStatus asks the brink that uses the data directory.
func askStatus(ctx context.Context, l layout.Layout) (nodeStatus, error) {
	var out nodeStatus
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.StatusSocket())
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://brink/status", nil)
	if err != nil {
		return out, err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return out, fmt.Errorf("%s: only root may ask: use sudo", l.StatusSocket())
	case err != nil:
		return out, fmt.Errorf("%w with data directory %s", errNotRunning, l.Data())
	}
	defer resp.Body.Close()
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

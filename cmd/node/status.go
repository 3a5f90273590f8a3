package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"time"

	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/rootsocket"
)

// Status is what `brink status` prints, as JSON on the status socket.
type Status struct {
	Node       string             `json:"node"`
	Role       string             `json:"role"`
	PID        int                `json:"pid"`
	Started    time.Time          `json:"started"`
	Ready      bool               `json:"ready"`
	DataDir    string             `json:"dataDir"`
	Problems   []string           `json:"problems,omitempty"` // for which it is not ready
	Warnings   []string           `json:"warnings,omitempty"` // for which it may not be after the next restart
	Components []lifecycle.Status `json:"components"`
	Versions   []Component        `json:"versions"`
}

// statusServer answers on a unix socket that only root can reach.
type statusServer struct {
	layout   layout.Layout
	snapshot func() Status
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

// ErrNotRunning means that nobody answers on the status socket.
var ErrNotRunning = errors.New("brink is not running")

// AskStatus asks the brink that uses the data directory.
func AskStatus(ctx context.Context, l layout.Layout) (Status, error) {
	var out Status
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
		return out, fmt.Errorf("%w with data directory %s", ErrNotRunning, l.Data())
	}
	defer resp.Body.Close()
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// snapshotter returns what `brink status` asks for. An error of health means that
// the node is not ready, one of warnings does not.
func snapshotter(s Config, group *lifecycle.Group, begun time.Time, ready <-chan struct{}, health, warnings []func() error) func() Status {
	role := "server"
	switch {
	case s.Join != nil:
		role = "agent"
	case s.DisableAgent:
		role = "server without agent"
	}
	return func() Status {
		status := Status{
			Node: s.Agent.NodeName, Role: role, PID: os.Getpid(), Started: begun,
			DataDir: s.Layout.Data(), Components: group.Status(), Versions: Versions(),
		}
		select {
		case <-ready:
			status.Ready = true
		default:
		}
		status.Problems, status.Warnings = said(health), said(warnings)
		status.Ready = status.Ready && len(status.Problems) == 0
		return status
	}
}

// said returns the errors of those that have some, a line each.
func said(checks []func() error) []string {
	var out []string
	for _, check := range checks {
		if err := check(); err != nil {
			out = append(out, strings.Split(err.Error(), "\n")...)
		}
	}
	return out
}

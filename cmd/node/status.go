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
	"syscall"
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
	Elsewhere  bool               `json:"databaseElsewhere,omitempty"` // the state is not in DataDir
	Problems   []string           `json:"problems,omitempty"`          // for which it is not ready
	Warnings   []string           `json:"warnings,omitempty"`          // for which it may not be after the next restart
	Components []lifecycle.Status `json:"components"`
	Versions   []Component        `json:"versions"`
}

// status is the state of the process now.
func (p *process) status() Status {
	s := Status{
		Node: p.cfg.NodeName, Role: p.cfg.role(), PID: os.Getpid(), Started: p.begun, DataDir: p.cfg.Layout.Data(),
		Problems: linesOf(p.health), Warnings: linesOf(p.warnings),
		Components: p.group.Status(), Versions: Versions(),
	}
	if p.cfg.Agent != nil {
		s.Versions = withNFT(s.Versions, p.cfg.Agent.Host)
	}
	s.Elsewhere = p.cfg.Server != nil && p.cfg.Server.DatastoreEndpoint != ""
	s.Ready = p.ready.Load() && len(s.Problems) == 0
	return s
}

// Version returns that of the brink that answered.
func (s Status) Version() string {
	for _, v := range s.Versions {
		if v.Name == "brink" {
			return v.Version
		}
	}
	return ""
}

// WaitingFor says why the node is not ready: by the first component that is not, else by
// the first problem.
func (s Status) WaitingFor() string {
	for _, c := range s.Components {
		if c.State != lifecycle.Ready {
			return fmt.Sprintf("%s is %s", c.Name, c.State)
		}
	}
	if len(s.Problems) > 0 {
		return s.Problems[0]
	}
	return "starting"
}

// linesOf returns the errors of the checks that fail, one line each.
func linesOf(checks []func() error) []string {
	var out []string
	for _, check := range checks {
		if err := check(); err != nil {
			out = append(out, strings.Split(err.Error(), "\n")...)
		}
	}
	return out
}

// statusComponent answers on a unix socket that only root can reach.
func (p *process) statusComponent() lifecycle.Component {
	return lifecycle.Component{Name: "status", Run: p.serveStatus}
}

func (p *process) serveStatus(ctx context.Context, ready func()) error {
	listener, err := rootsocket.Listen(p.cfg.Layout.StatusSocket())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: p.statusHandler(), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	ready()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("answering on %s: %w", p.cfg.Layout.StatusSocket(), err)
	}
	return nil
}

func (p *process) statusHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(p.status())
	})
	mux.HandleFunc("POST "+snapshotPath, p.serveSnapshot)
	if p.cfg.PProf {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// ErrNotRunning means that nobody listens on the status socket.
var ErrNotRunning = errors.New("brink is not running")

// statusLimit is how long a brink may take to answer. The answer is made from memory.
const statusLimit = 10 * time.Second

// AskStatus asks the brink that uses the data directory. The error is ErrNotRunning only if
// there is none: one that hangs must not be taken for stopped.
func AskStatus(ctx context.Context, l layout.Layout) (Status, error) {
	return askStatus(ctx, l, statusLimit)
}

func askStatus(ctx context.Context, l layout.Layout, limit time.Duration) (Status, error) {
	var out Status
	resp, err := askSocket(ctx, l, http.MethodGet, "/status", limit)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&out)
	return out, noAnswer(ctx, l, err)
}

// noAnswer says whose answer could not be had. A context that has ended is the reason itself.
func noAnswer(ctx context.Context, l layout.Layout, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("brink with data directory %s, pid %s, gives no answer on %s (%w): see its log, or restart it", l.Data(), lockHolder(l), l.StatusSocket(), err)
}

// askSocket sends a request to the brink that uses the data directory. A limit of 0 is none.
func askSocket(ctx context.Context, l layout.Layout, method, path string, limit time.Duration) (*http.Response, error) {
	client := &http.Client{Timeout: limit, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.StatusSocket())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://brink"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("%s: only root may ask: use sudo", l.StatusSocket())
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w with data directory %s", ErrNotRunning, l.Data())
	}
	return resp, noAnswer(ctx, l, err)
}

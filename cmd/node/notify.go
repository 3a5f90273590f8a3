package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"brink/internal/lifecycle"
	"brink/server"
)

// statusEvery is how often systemd's status line is compared with what is so. Nothing is
// sent while it is the same.
const statusEvery = 2 * time.Second

// notifySystemd sends a state to systemd by the datagram protocol of sd_notify(3).
// Without a socket, systemd does not wait, and nothing is sent. The library that the
// kubelet uses for this cannot be used: it reads the socket from the environment, and there
// the socket has been removed so that the kubelet does not find it.
func notifySystemd(socket, state string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", socket, err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// tell is notifySystemd for what is only for people to read.
func (p *process) tell(state string) { _ = notifySystemd(p.globals.NotifySocket, state) }

// keepSystemdInformed tells systemd what the node waits for or does, and feeds its
// watchdog, until ctx ends. Then it says that the node stops.
func (p *process) keepSystemdInformed(ctx context.Context) {
	if p.globals.NotifySocket == "" {
		return
	}
	if p.globals.Watchdog > 0 {
		go p.feedWatchdog(ctx)
	}
	told := ""
	for ticker := time.NewTicker(statusEvery); ; {
		if line := p.statusLine(); line != told {
			p.tell("STATUS=" + line)
			told = line
		}
		select {
		case <-ctx.Done():
			ticker.Stop()
			p.tell("STOPPING=1\nSTATUS=stopping; pods keep running")
			return
		case <-ticker.C:
		}
	}
}

// statusLine is one line for `systemctl status`: what the node is, and what takes long
// beside that.
func (p *process) statusLine() string {
	line := p.stateLine()
	for _, c := range p.group.Status() {
		if c.Progress != "" {
			line += "; " + c.Name + ": " + c.Progress
		}
	}
	return line
}

func (p *process) stateLine() string {
	if !p.ready.Load() {
		return startingLine(p.group.Status())
	}
	if problems := linesOf(p.health); len(problems) > 0 {
		return "not ready: " + problems[0]
	}
	if p.cfg.Agent == nil {
		return "control plane is Ready"
	}
	return fmt.Sprintf("node %s is Ready", p.cfg.NodeName)
}

// waits are what components do that take long at a start.
var waits = map[string]string{
	"join": "waiting for a server of the cluster", "datastore": "waiting for the datastore",
	"address": "waiting for an address", "node": "waiting until the node is Ready",
}

func startingLine(components []lifecycle.Status) string {
	var doing []string
	for _, c := range components {
		if c.State != lifecycle.Starting {
			continue
		}
		what := waits[c.Name]
		if what == "" {
			what = "starting " + c.Name
		}
		doing = append(doing, what)
	}
	return strings.Join(doing, ", ")
}

// feedWatchdog tells systemd that the node is alive, after each time that it proved to
// be. A hang shows in a lock that nobody gives back or in an API server that no longer
// answers; a timer alone would go on through both. What waits for others, such as a
// database or a server of the cluster, or reports that it is not ready, is alive.
func (p *process) feedWatchdog(ctx context.Context) {
	every := p.globals.Watchdog / 3
	for ticker := time.NewTicker(every); ; {
		err := p.prove(ctx, every)
		if err == nil {
			err = notifySystemd(p.globals.NotifySocket, "WATCHDOG=1")
		}
		if err != nil && ctx.Err() == nil {
			slog.Warn("not telling systemd that the node is alive", "component", "brink", "error", err)
		}
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
		}
	}
}

// prove returns nil if the process answers as it does to others: the status on its socket,
// for which each part is asked for its health, and on a server the API.
func (p *process) prove(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if _, err := AskStatus(ctx, p.cfg.Layout); err != nil {
		return fmt.Errorf("the node does not answer: %w", err)
	}
	if p.server == nil || !p.isReady(server.Controllers) {
		return nil
	}
	if err := p.askAPI(ctx); err != nil {
		return fmt.Errorf("the API server does not answer: %w", err)
	}
	return nil
}

// askAPI returns nil for any answer: one that says no is an answer.
func (p *process) askAPI(ctx context.Context) error {
	config := p.server.ClientConfig("system:brink:watchdog", "system:monitoring")
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/livez/ping", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return errors.Unwrap(err)
	}
	return resp.Body.Close()
}

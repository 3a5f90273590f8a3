// Package join makes a machine a node of a cluster and keeps it one: how the
// machine comes to trust the cluster, how it gets its certificate, and how its
// parts reach the API server from then on.
//
// Joining, in this order:
//
//  1. GET /cacerts over TLS that verifies nothing. The answer is believed when
//     its hash is the token's; from here on TLS verifies everything.
//  2. The token is shown. A server says whether it is unknown or has expired.
//  3. A certificate request with a proof of the node password (internal/wire/nodekey)
//     is made with the token's rights, which reach no further. The servers
//     approve it when the name is free or this machine's.
//  4. With the certificate, the cluster's settings are read.
//
// A machine that has a certificate begins with the last step: it needs its token
// no more, and no server of the past to be the one it was given. When no server
// answers it begins with the settings of the last time: power comes back before
// the uplink does, and static pods need no server.
//
// Decisions:
//   - What cannot get better by itself ends the process with one line while the
//     machine has not joined: a wrong hash, a refused token or name, a clock that
//     is off, a server that is none. Everything else is tried again, with a line
//     for each change of the reason. A node that has joined tries on: its
//     pods run meanwhile. It ends when it has started without a server and then
//     finds that its cluster has other settings.
//   - A node that was deleted is told so by the servers: its certificate counts no
//     more. It goes on with its pods, asks for nothing in vain, and says so in one
//     line. Started again it joins again if it has a token, and else ends.
//   - A server whose database was restored has forgotten certificates. Each request
//     says by the node password that its certificate is this machine's, which such a
//     server believes without a token (server/noderecord).
//   - The certificate lies in one file with its key, so that one rename replaces
//     both. client-go's store makes a file for each renewal and syncs none.
//   - A renewed certificate is used by new connections; requests and watches on
//     old ones end in their own time. The kubelet's way is to cut them.
package join

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"brink/agent/servers"
	"brink/internal/layout"
	"brink/internal/wire/clusterconfig"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
)

const component = "join"

// DefaultPort is that of a server whose address names none.
const DefaultPort = "6443"

// serverName is in the certificate of every server, whatever its address.
const serverName = "kubernetes"

// Config says where to join, and as what.
type Config struct {
	Server string           // host:port, as ParseServer returns it
	Token  *jointoken.Token // nil for a machine that has joined
	// TokenError is why there is no Token: it matters only to one that has not.
	TokenError error
	NodeName   string
	Layout     layout.Layout
}

// ParseServer returns host:port of what a user gives: https://host:port, where
// only the host is needed.
func ParseServer(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", fmt.Errorf("not a URL such as https://192.0.2.1:6443")
	case u.Scheme != "https":
		return "", fmt.Errorf("servers speak https, not %s", u.Scheme)
	case u.Hostname() == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("not a server such as https://192.0.2.1:6443")
	case u.Port() == "":
		return net.JoinHostPort(u.Hostname(), DefaultPort), nil
	}
	return u.Host, nil
}

// Join is a machine's membership.
type Join struct {
	cfg   Config
	pool  *servers.Pool
	certs *store
	ca    authority
	api   *transport
	seen  *seen
	// prover tells with each request whose the certificate is.
	prover *prover
	// refusal is whether servers take the certificate.
	refusal *refusal
	// refused is when a token was refused first.
	refused time.Time
	// used is what the node started with; online, that a server said so.
	used   clusterconfig.Config
	online bool
}

// New reads what the machine has of an earlier joining. Nothing is asked of the
// network.
func New(cfg Config) (*Join, error) {
	l := cfg.Layout
	j := &Join{cfg: cfg, pool: servers.Open(cfg.Server, l.Servers()), seen: newSeen(l.SeenRevision()), refusal: &refusal{}}
	var err error
	if j.certs, err = openStore(l.NodeCert(), cfg.NodeName); err != nil {
		return nil, err
	}
	j.prover = &prover{certs: j.certs, password: l.NodePassword()}
	if j.ca, err = readAuthority(l.ClusterCA()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := j.checkCluster(); err != nil || j.hasJoined() {
		if err == nil && cfg.TokenError != nil {
			slog.Warn("the token cannot be read, which does not matter to a node that has joined", "component", component, "error", cfg.TokenError)
		}
		return j, err
	}
	if cfg.TokenError != nil {
		return nil, cfg.TokenError
	}
	if cfg.Token == nil {
		return nil, fmt.Errorf("%s: give --token or --token-file, which brink token create makes on the server", j.whyToken())
	}
	return j, nil
}

// hasJoined tells that the machine has what it needs to speak as the node.
func (j *Join) hasJoined() bool { return j.ca.pool != nil && j.certs.usable(time.Now()) == nil }

func (j *Join) whyToken() string {
	if err := j.certs.usable(time.Now()); err != nil && !errors.Is(err, errNoCertificate) {
		return err.Error()
	}
	return "this machine has not joined a cluster yet"
}

// checkCluster refuses the token of another cluster than the machine's: pods,
// images and certificates of the old one are on it.
func (j *Join) checkCluster() error {
	if j.cfg.Token == nil || j.ca.pool == nil || j.cfg.Token.CAHash == j.ca.hash {
		return nil
	}
	return fmt.Errorf("this machine is a node of another cluster than the token's: use a token of its own cluster, whose CA has the hash %s, or remove it from there with brink uninstall", j.ca.hash)
}

// Machine is what the cluster knows this machine by, "" when its node password
// cannot be read. None is made here: a machine that has joined has one, and where it
// was lost with /etc the node goes on by its certificate.
func (j *Join) Machine() nodekey.Public {
	path := j.cfg.Layout.NodePassword()
	key, err := nodekey.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%s is lost, by which this machine can join again under its name: restore it; without it, kubectl delete node %s must come before", path, j.cfg.NodeName)
	}
	if err != nil {
		complain(err)
		return ""
	}
	return key.Public()
}

// Pool is the servers of the cluster.
func (j *Join) Pool() *servers.Pool { return j.pool }

// Run joins, unless the machine has joined, and returns the cluster's settings.
// When no server answers a machine that has joined, they are those of the last
// time, and online is false. It returns an error only for what does not get better
// by itself.
func (j *Join) Run(ctx context.Context) (_ clusterconfig.Config, online bool, err error) {
	if !j.hasJoined() {
		if err := try(ctx, "joining the cluster", j.join); err != nil {
			return clusterconfig.Config{}, false, err
		}
		slog.Info("joined the cluster", "component", component, "node", j.cfg.NodeName, "server", j.cfg.Server)
	}
	j.api = newTransport(j.pool, j.TLS, j.refusal, j.prover)
	if j.used, j.online, err = j.current(ctx); errors.Is(err, errRefused) {
		j.used, j.online, err = j.again(ctx)
	}
	return j.used, j.online, err
}

// again joins with the token, if there is one, after the node was deleted. That it is
// the same machine is shown by its node password.
func (j *Join) again(ctx context.Context) (clusterconfig.Config, bool, error) {
	if j.cfg.Token == nil {
		return clusterconfig.Config{}, false, j.Refused()
	}
	slog.Info("this node was deleted from the cluster and joins again", "component", component, "node", j.cfg.NodeName)
	if err := try(ctx, "joining the cluster again", j.join); err != nil {
		return clusterconfig.Config{}, false, err
	}
	j.refusal.forget()
	j.api.renew()
	return j.current(ctx)
}

// API reaches the API server as this node, who acts for all of its parts.
func (j *Join) API(string, ...string) *rest.Config {
	return &rest.Config{
		Host:      "https://" + j.cfg.Server,
		Transport: j.api,
		// Upstream's defaults for a kubelet.
		QPS: 50, Burst: 100,
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}
}

// Reconnect gives up the connections that there are, as after a heartbeat that
// was not answered.
func (j *Join) Reconnect() { j.api.cut() }

// TLS returns how to speak to servers as this node.
func (j *Join) TLS() *tls.Config {
	config := j.verified()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return j.certs.Current()
	}
	return config
}

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
// A machine that has a certificate begins with the last step: it no longer needs its
// token, nor the server that it was given. When no server answers it begins with the
// settings of its last start: power comes back before the uplink does, and static pods
// need no server.
//
// Decisions:
//   - What cannot get better by itself ends the process with one line while the
//     machine has not joined: a wrong hash, a refused token or name, a clock that
//     is off, an address that is not a brink server's. Everything else is retried, with
//     a line for each change of the reason. A node that has joined keeps retrying: its
//     pods run meanwhile. It ends when it has started without a server and then
//     finds that its cluster has other settings.
//   - The servers tell a node that it was deleted: they no longer accept its
//     certificate. It goes on with its pods, sends no requests that would be refused,
//     and logs that once. Started again, it joins with its token or, without one, ends.
//   - A server whose database was restored has forgotten certificates. Each request
//     carries a proof, made with the node password, that the certificate is this
//     machine's. Such a server accepts that without a token (server/noderecord).
//   - The certificate and its key are in one file, so that one rename replaces
//     both. client-go's store makes a file for each renewal and syncs none.
//   - New connections use a renewed certificate; requests and watches on old ones
//     end in their own time. The kubelet would cut them.
package join

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"brink/agent/servers"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/wire"
	"brink/internal/wire/clusterconfig"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
)

const component = "join"

// serverName is in the certificate of every server, whatever its address.
const serverName = "kubernetes"

// Config says where to join, and as what.
type Config struct {
	Server string           // host:port, as ParseServer returns it
	Token  *jointoken.Token // nil for a machine that has joined
	// TokenError is why there is no Token. It only matters to a machine that has not joined.
	TokenError error
	NodeName   string
	Layout     layout.Layout
}

// ParseServer returns the host:port of a server that a user gives as https://host:port.
// Only the host is needed.
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
		return net.JoinHostPort(u.Hostname(), strconv.Itoa(wire.DefaultPort)), nil
	}
	return u.Host, nil
}

// Join is a machine's membership of a cluster: its certificate, the cluster's settings,
// and how the machine reaches the servers.
type Join struct {
	cfg   Config
	pool  *servers.Pool
	certs *store
	ca    authority
	api   *transport
	seen  *seen
	// prover adds to each request the proof that the certificate is this machine's.
	prover *prover
	// refusal records whether servers refuse the certificate.
	refusal *refusal
	// tokenRefused is when the token was first refused.
	tokenRefused time.Time
	// used are the settings with which the node started. online is true if a server gave
	// them, and false if they are those of the last start.
	used   clusterconfig.Config
	online bool
}

// New reads what the machine has kept from joining earlier. It sends nothing to the
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

// hasJoined reports whether the machine has what it needs to act as the node: the cluster's
// CA and a usable certificate.
func (j *Join) hasJoined() bool { return j.ca.pool != nil && j.certs.usable(time.Now()) == nil }

// whyToken returns why the machine cannot do without a token.
func (j *Join) whyToken() string {
	if err := j.certs.usable(time.Now()); err != nil && !errors.Is(err, errNoCertificate) {
		return err.Error()
	}
	return "this machine has not joined a cluster yet"
}

// checkCluster refuses a token of another cluster than the machine's: the machine still
// has pods, images and certificates of the old one.
func (j *Join) checkCluster() error {
	if j.cfg.Token == nil || j.ca.pool == nil || j.cfg.Token.CAHash == j.ca.hash {
		return nil
	}
	return fmt.Errorf("this machine is a node of another cluster than the token's: use a token of its own cluster, whose CA has the hash %s, or remove it from there with brink uninstall", j.ca.hash)
}

// Machine returns the public key by which the cluster knows this machine, "" when its
// node password cannot be read. It does not make one: a machine that has joined has one,
// and where that was lost with /etc, the certificate keeps the node going.
func (j *Join) Machine() nodekey.Public {
	path := j.cfg.Layout.NodePassword()
	key, err := nodekey.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%s is lost, by which this machine can join again under its name: restore it; without it, kubectl delete node %s must come before", path, j.cfg.NodeName)
	}
	if err != nil {
		warn(err)
		return ""
	}
	return key.Public()
}

// Run joins, unless the machine has joined, and returns the cluster's settings.
// When no server answers a machine that has joined, they are those of its last start,
// and online is false. It returns an error only for what does not get better by itself.
func (j *Join) Run(ctx context.Context) (_ clusterconfig.Config, online bool, err error) {
	if !j.hasJoined() {
		if err := retry(ctx, "joining the cluster", j.join); err != nil {
			return clusterconfig.Config{}, false, err
		}
		lifecycle.Logger(ctx).Info("joined the cluster", "node", j.cfg.NodeName, "server", j.cfg.Server)
	} else if j.cfg.TokenError != nil {
		lifecycle.Logger(ctx).Warn("the token cannot be read, which does not matter to a node that has joined", "error", j.cfg.TokenError)
	}
	j.api = newTransport(j.pool, j.TLS, j.refusal, j.prover)
	if j.used, j.online, err = j.currentSettings(ctx); errors.Is(err, errRefused) {
		j.used, j.online, err = j.rejoin(ctx)
	}
	return j.used, j.online, err
}

// rejoin joins with the token, if there is one, after the node was deleted. The node
// password shows that it is the same machine.
func (j *Join) rejoin(ctx context.Context) (clusterconfig.Config, bool, error) {
	if j.cfg.Token == nil {
		return clusterconfig.Config{}, false, j.Refused()
	}
	lifecycle.Logger(ctx).Info("this node was deleted from the cluster and joins again", "node", j.cfg.NodeName)
	if err := retry(ctx, "joining the cluster again", j.join); err != nil {
		return clusterconfig.Config{}, false, err
	}
	j.refusal.forget()
	j.api.renew()
	return j.currentSettings(ctx)
}

// API returns a configuration that reaches the API server as this node, which acts for
// all of its parts.
func (j *Join) API(string, ...string) *rest.Config {
	return &rest.Config{
		Host:      "https://" + j.cfg.Server,
		Transport: j.api,
		// Upstream's defaults for a kubelet.
		QPS: 50, Burst: 100,
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}
}

// Reconnect closes all connections, as after a heartbeat that was not answered.
func (j *Join) Reconnect() { j.api.cut() }

// TLS returns a configuration for connections to servers as this node.
func (j *Join) TLS() *tls.Config {
	config := j.verified()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return j.certs.Current()
	}
	return config
}

package upgrade

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"brink/agent/servers"
	"brink/cmd/node"
	"brink/datastore"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/release"
)

// outside returns what the node waits for that no version of brink can help, empty for nothing.
// status is what the new version says, if it answers.
func (w *watcher) outside(ctx context.Context, status *node.Status) string {
	if !hasAddress() {
		return "this machine has no address"
	}
	if w.Agent {
		if _, err := ServerVersion(ctx, w.layout); errors.Is(err, errAway) {
			return err.Error()
		}
	}
	if w.Elsewhere && status != nil && isDatabaseAway(*status) {
		return "the database elsewhere does not answer"
	}
	return ""
}

// hasAddress reports whether an interface that no pod network makes has an address that other
// machines can reach. Without one a server waits, or ends and is started again.
func hasAddress() bool {
	interfaces, err := net.Interfaces()
	if err != nil {
		return true // it is not known that there is none
	}
	for _, i := range interfaces {
		isOther := i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || strings.HasPrefix(i.Name, "brink") || strings.HasPrefix(i.Name, "veth")
		addresses, err := i.Addrs()
		if isOther || err != nil {
			continue
		}
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
				return true
			}
		}
	}
	return false
}

func isDatabaseAway(status node.Status) bool {
	for _, c := range status.Components {
		if c.Name == datastore.ComponentName && c.State != lifecycle.Ready {
			return true
		}
	}
	return len(status.Problems) > 0
}

// serverPatience is how long one server may take to say its version.
const serverPatience = 5 * time.Second

// ServerVersion asks the servers that an agent knows for their version, as the agent's node.
func ServerVersion(ctx context.Context, l layout.Layout) (release.Version, error) {
	config, err := nodeTLS(l)
	if err != nil {
		return release.Version{}, err
	}
	all := servers.Open("", l.Servers()).All()
	var errs []error
	areAway := true
	for _, server := range all {
		if server == "" {
			continue
		}
		version, err := askVersion(ctx, config, server)
		if err == nil {
			return version, nil
		}
		errs = append(errs, err)
		areAway = areAway && isAway(err)
	}
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	text := strings.Join(texts, "; ")
	switch {
	case len(errs) == 0:
		return release.Version{}, fmt.Errorf("no server of the cluster is known: %s has none", l.Servers())
	case areAway:
		return release.Version{}, fmt.Errorf("%w: %s", errAway, text)
	}
	return release.Version{}, fmt.Errorf("no server of the cluster says its version: %s", text)
}

// errAway is the error where nothing can be said of the servers but that they cannot be
// reached. A node that a server refuses has a fault of its own.
var errAway = errors.New("no server of the cluster answers")

// isAway reports whether a server was not reached, or has not answered in time.
func isAway(err error) bool {
	var network *net.OpError
	var timed net.Error
	return errors.As(err, &network) && network.Op == "dial" || errors.As(err, &timed) && timed.Timeout()
}

// nodeTLS returns the TLS of a node towards its servers.
func nodeTLS(l layout.Layout) (*tls.Config, error) {
	ca, err := os.ReadFile(l.ClusterCA())
	if err != nil {
		return nil, fmt.Errorf("this machine has joined no cluster: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(l.NodeCert(), l.NodeCert())
	if err != nil {
		return nil, fmt.Errorf("reading the node's certificate: %w", err)
	}
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

func askVersion(ctx context.Context, config *tls.Config, server string) (release.Version, error) {
	client := &http.Client{Timeout: serverPatience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+"/version", nil)
	if err != nil {
		return release.Version{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return release.Version{}, err
	}
	defer resp.Body.Close()
	var told struct{ GitVersion string }
	if err := json.NewDecoder(resp.Body).Decode(&told); err != nil || resp.StatusCode != http.StatusOK {
		return release.Version{}, fmt.Errorf("%s says %s", server, resp.Status)
	}
	return release.ParseVersion(told.GitVersion)
}

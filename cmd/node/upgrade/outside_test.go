package upgrade

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"brink/cmd/node"
	"brink/datastore"
	"brink/internal/lifecycle"
	"brink/internal/testerror"
)

func TestAskVersion(t *testing.T) {
	t.Parallel()
	answer := `{"gitVersion":"v1.36.3+brink.1"}`
	status := http.StatusOK
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/version" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	config := &tls.Config{RootCAs: roots}
	address := strings.TrimPrefix(server.URL, "https://")
	if v, err := askVersion(t.Context(), config, address); err != nil || v.String() != "v1.36.3+brink.1" {
		t.Errorf("%s (%v)", v, err)
	}
	status = http.StatusServiceUnavailable
	_, err := askVersion(t.Context(), config, address)
	testerror.OneLine(t, err, "503")
	status, answer = http.StatusOK, `{"gitVersion":"v1.36.3"}`
	_, err = askVersion(t.Context(), config, address)
	testerror.OneLine(t, err, "is not a version of brink")
	if _, err := askVersion(t.Context(), &tls.Config{RootCAs: x509.NewCertPool()}, address); err == nil {
		t.Error("a server of another cluster was asked")
	}
}

func TestIsDatabaseAway(t *testing.T) {
	t.Parallel()
	with := func(state lifecycle.State, problems ...string) node.Status {
		return node.Status{Problems: problems, Components: []lifecycle.Status{{Name: datastore.ComponentName, State: state}}}
	}
	if !isDatabaseAway(with(lifecycle.Starting)) || !isDatabaseAway(with(lifecycle.Ready, "the database does not answer")) || isDatabaseAway(with(lifecycle.Ready)) {
		t.Error("a database that is away is not known, or one that is there")
	}
}

// A server that refuses the node is there: the fault is the node's.
func TestIsAway(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	address := strings.TrimPrefix(server.URL, "https://")
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	_, refused := askVersion(t.Context(), &tls.Config{RootCAs: roots}, address)
	_, foreign := askVersion(t.Context(), &tls.Config{RootCAs: x509.NewCertPool()}, address)
	server.Close()
	_, away := askVersion(t.Context(), &tls.Config{RootCAs: roots}, address)
	if refused == nil || isAway(refused) || foreign == nil || isAway(foreign) || !isAway(away) {
		t.Errorf("refused: %v, foreign: %v, away: %v", refused, foreign, away)
	}
	w, _ := newWatcher(t, Watching, newState)
	w.Agent = true // that has no CA
	if why := w.outside(t.Context(), nil); strings.Contains(why, "joined") {
		t.Errorf("the node's own fault counts as outside: %s", why)
	}
}

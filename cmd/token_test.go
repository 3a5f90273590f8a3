package cmd

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"brink/internal/testerror"
	"brink/internal/wire/jointoken"
	"brink/server/token"
)

func TestParseTTL(t *testing.T) {
	t.Parallel()
	good := map[string]time.Duration{"0": 0, "0s": 0, "0d": 0, "1m": time.Minute, "24h": 24 * time.Hour, "1h30m": 90 * time.Minute, "7d": 7 * 24 * time.Hour}
	for text, want := range good {
		if got, err := parseTTL(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "24", "d", "-1d", "1.5d", "1w", "99999999d"} {
		_, err := parseTTL(text)
		testerror.OneLine(t, err, "--ttl="+text+": not a time such as")
	}
	for _, text := range []string{"-1h", "59s", "1ns"} {
		_, err := parseTTL(text)
		testerror.OneLine(t, err, "--ttl="+text+": must be at least 1m, or 0 for never")
	}
}

func TestDescription(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "the tills in Köln", strings.Repeat("ü", maxDescription)} {
		if err := checkDescription(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"two\nlines", "\x1b[2J", "tab\t", "end\r"} {
		testerror.OneLine(t, checkDescription(text), "--description: must be one line")
	}
	testerror.OneLine(t, checkDescription(strings.Repeat("ü", maxDescription+1)), "at most 200 characters, has 201")
}

func TestTokenID(t *testing.T) {
	t.Parallel()
	token := jointoken.New(strings.Repeat("0", 64))
	for _, arg := range []string{token.ID, token.Bootstrap(), token.Text()} {
		if id, err := tokenID(arg); err != nil || id != token.ID {
			t.Errorf("got %q, %v, want %s", id, err, token.ID)
		}
	}
	testerror.OneLine(t, second(tokenID("ABC")), `"ABC" is not a token's id`)
	for _, arg := range []string{token.Text() + "x", token.Bootstrap() + "x", "brink1." + token.Bootstrap()} {
		err := second(tokenID(arg))
		if err == nil || strings.Contains(err.Error(), token.Secret) {
			t.Errorf("a damaged token: %v", err)
		}
	}
}

func second(_ string, err error) error { return err }

func TestPrintTokens(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	later, before := now.Add(23*time.Hour+time.Minute), now.Add(-time.Hour)
	tokens := []token.Token{
		{ID: "abcdef", Expires: &later, Description: "for the tills"},
		{ID: "ghijkl", Server: "hub", Description: "the own token of server hub"},
		{ID: "mnopqr", Expires: &before},
	}
	var out strings.Builder
	want := "ID      EXPIRES  DESCRIPTION\n" +
		"abcdef  in 23h   for the tills\n" +
		"ghijkl  never    the own token of server hub\n" +
		"mnopqr  expired  \n"
	if err := printTokens(&out, tokens, now); err != nil || out.String() != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, out.String(), want)
	}
	text, err := json.Marshal(describe(tokens[1:], now))
	if want := `[{"id":"ghijkl","description":"the own token of server hub","expires":null,"server":"hub","state":"valid"},` +
		`{"id":"mnopqr","description":"","expires":"2030-01-02T02:04:05Z","state":"expired"}]`; err != nil || string(text) != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, text, want)
	}
	if text, err := json.Marshal(describe(nil, now)); err != nil || string(text) != "[]" {
		t.Errorf("no tokens are %s, %v", text, err)
	}
}

// kubeconfigFor writes a kubeconfig for a server with the given CA.
func kubeconfigFor(t *testing.T, url string, ca []byte) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: url, CertificateAuthorityData: ca}
	config.AuthInfos["c"] = &clientcmdapi.AuthInfo{Token: "x"}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "c"}
	config.CurrentContext = "c"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestTokenErrors: each error is one line that says what is wrong and what to do.
func TestTokenErrors(t *testing.T) {
	dir, missing := t.TempDir(), filepath.Join(t.TempDir(), "missing")
	configured(t, "data-dir: "+dir+"\n")
	own := filepath.Join(dir, "brink.yaml")
	answers := func(code int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
		t.Cleanup(s.Close)
		return s
	}
	gone := answers(200)
	gone.Close()
	rejecting := answers(401)
	noCA := kubeconfigFor(t, rejecting.URL, nil)
	unauthorized := kubeconfigFor(t, rejecting.URL, nil)
	away := kubeconfigFor(t, gone.URL, nil)
	nonsense := filepath.Join(dir, "nonsense")
	if err := os.WriteFile(nonsense, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, env, args, want string }{
		{"not a server", "", "list", own + " does not exist: is this a server, and has it been started?"},
		{"by flag", "", "list --kubeconfig " + missing, "kubeconfig " + missing + " does not exist"},
		{"the flag wins", away, "list --kubeconfig " + missing, "kubeconfig " + missing + " does not exist"},
		{"by environment", away, "list", "brink does not answer at " + gone.URL + ": is it running?"},
		{"not running", "", "list --kubeconfig " + away, "brink does not answer at " + gone.URL + ": is it running?"},
		{"no YAML", "", "list --kubeconfig " + nonsense, "reading kubeconfig " + nonsense},
		{"no rights", "", "list --kubeconfig " + unauthorized, "does not accept the credentials in " + unauthorized},
		{"no CA", "", "create --kubeconfig " + noCA, noCA + " has no CA of the cluster"},
		{"arguments", "", "list x", "takes no arguments"},
		{"arguments", "", "create x", "takes no arguments"},
		{"ttl", "", "create --ttl=-1h", "--ttl=-1h: must be at least 1m"},
		{"no id", "", "delete", "name at least one token"},
		{"bad id", "", "delete ABC", "is not a token's id"},
		{"format", "", "list -o yaml", "--output=yaml"},
		{"no command", "", "make", `there is no command "token make"`},
		{"no flag", "", "create --time 1h", "brink token create: flag provided but not defined: -time"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("KUBECONFIG", test.env)
			testerror.OneLine(t, newApp(os.Exit).Run(append([]string{"brink", "token"}, strings.Fields(test.args)...)), test.want)
		})
	}
}

// TestTokensNeedRoot: the node's own kubeconfig is root's.
func TestTokensNeedRoot(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "brink.yaml")
	if err := os.WriteFile(own, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", "")
	t.Setenv("BRINK_CONFIG", "") // so that it is set back at the end
	os.Unsetenv("BRINK_CONFIG")
	t.Setenv("BRINK_DATA_DIR", dir)
	list := func() error { return newApp(os.Exit).Run([]string{"brink", "token", "list"}) }
	testerror.OneLine(t, asNobody(t, list), own+" is readable by root only: use sudo")
}

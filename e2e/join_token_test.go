package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/e2e/machine"
	"brink/internal/wire/jointoken"
)

// listed is a line of `brink token list -o json`.
type listed struct {
	ID, Description, Server, State string
	Expires                        *time.Time
}

// token runs a token command with nothing but the configuration file to find the
// cluster by.
func (n *node) token(args ...string) (machine.Result, error) {
	argv := append([]string{brinkBinary, "token", args[0]}, n.Flags("config")...)
	return n.Run("", append([]string{"env", "-u", "KUBECONFIG"}, append(argv, args[1:]...)...)...)
}

func (n *node) mustToken(t *testing.T, args ...string) string {
	t.Helper()
	r, err := n.token(args...)
	if err != nil || r.Code != 0 {
		t.Fatalf("brink token %s: %v %v", strings.Join(args, " "), err, r)
	}
	return strings.TrimSuffix(r.Stdout, "\n")
}

// refusesToken runs a token command that has to end with one line of error.
func (n *node) refusesToken(t *testing.T, wanted string, args ...string) {
	t.Helper()
	r, err := n.token(args...)
	if err != nil {
		t.Fatal(err)
	}
	n.mustSay(t, r.Stderr, r.Code, wanted)
	if r.Stdout != "" {
		t.Errorf("brink token %s printed %q", strings.Join(args, " "), r.Stdout)
	}
}

func (n *node) listTokens(t *testing.T) map[string]listed {
	t.Helper()
	var all []listed
	text := n.mustToken(t, "list", "-o", "json")
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	out := map[string]listed{}
	for _, l := range all {
		out[l.ID] = l
	}
	return out
}

// holder of a token speaks to the API with it.
func (n *node) holderOf(token jointoken.Token) (kubernetes.Interface, error) {
	config, err := n.RestConfig()
	if err != nil {
		return nil, err
	}
	anonymous := rest.AnonymousClientConfig(config)
	anonymous.BearerToken = token.Bootstrap()
	return kubernetes.NewForConfig(anonymous)
}

// accepts returns nil when the API server takes the token.
func (n *node) accepts(ctx context.Context, token jointoken.Token) error {
	client, err := n.holderOf(token)
	if err != nil {
		return err
	}
	_, err = client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	return err
}

// newToken makes a token as an administrator does.
func (n *node) newToken(t *testing.T, args ...string) jointoken.Token {
	t.Helper()
	text := n.mustToken(t, append([]string{"create"}, args...)...)
	token, err := jointoken.Parse(text)
	if err != nil {
		t.Fatalf("brink token create printed %q: %v", text, err)
	}
	return token
}

// ownToken waits for the server's token: that the control plane is ready does not
// wait for it.
func (n *node) ownToken(t *testing.T) jointoken.Token {
	t.Helper()
	var token jointoken.Token
	err := n.Await("the server's own token", func() error {
		text, err := os.ReadFile(n.Layout().ServerToken())
		if err != nil {
			return err
		}
		if token, err = jointoken.Parse(string(text)); err != nil {
			return err
		}
		return n.accepts(t.Context(), token)
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestTokens: made, listed, used and deleted as a person does it.
func TestTokens(t *testing.T) {
	t.Parallel()
	n := prepareNode(t, "disable-agent: true")
	n.refusesToken(t, "is this a server, and has it been started?", "list")
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	own := n.ownToken(t)

	token := n.newToken(t, "--description", "for the tills", "--ttl", "2h")
	if token.CAHash != own.CAHash {
		t.Errorf("the hashes of two tokens are %s and %s", token.CAHash, own.CAHash)
	}
	forever := n.newToken(t, "--ttl", "0")
	command := n.mustToken(t, "create", "--print-join-command")
	if want := fmt.Sprintf("brink agent --server https://%s:6443 --token brink1.%s.", n.Addr, own.CAHash); !strings.HasPrefix(command, want) {
		t.Errorf("the command is %s, want %s...", command, want)
	}
	for _, made := range []jointoken.Token{token, forever, own} {
		if err := n.accepts(t.Context(), made); err != nil {
			t.Errorf("the API server refuses token %s: %v", made.ID, err)
		}
	}

	n.listsTokens(t, own, token, forever)
	n.deletesTokens(t, token, forever)
	n.refusesToken(t, "remove "+n.Layout().ServerToken(), "delete", own.ID)
	n.refusesToken(t, "--ttl=-1h", "create", "--ttl=-1h")
	n.refusesToken(t, "must be one line", "create", "--description", "two\nlines")

	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.refusesToken(t, "is it running?", "list")
	n.replacesOwnToken(t, own)
}

// listsTokens checks the list of four tokens: the server's own, one for two hours, one
// without end, and one more.
func (n *node) listsTokens(t *testing.T, own, token, forever jointoken.Token) {
	t.Helper()
	list := n.listTokens(t)
	if l := list[token.ID]; l.Description != "for the tills" || l.State != "valid" || l.Expires == nil || time.Until(*l.Expires) > 2*time.Hour || time.Until(*l.Expires) < time.Hour {
		t.Errorf("listed as %+v", l)
	}
	if l := list[forever.ID]; l.Expires != nil || l.State != "valid" || l.Server != "" {
		t.Errorf("listed as %+v", l)
	}
	if l := list[own.ID]; l.Expires != nil || l.Server != n.ID {
		t.Errorf("the server's own is listed as %+v", l)
	}
	if len(list) != 4 {
		t.Errorf("%d tokens are listed, want 4", len(list))
	}
	table := n.mustToken(t, "list") + n.mustToken(t, "list", "-o", "json")
	for _, secret := range []string{token.Secret, forever.Secret, own.Secret} {
		if strings.Contains(table, secret) {
			t.Error("a secret is listed")
		}
	}
}

// deletesTokens deletes two of four tokens, by id and by text: the API server refuses
// them from then on.
func (n *node) deletesTokens(t *testing.T, token, forever jointoken.Token) {
	t.Helper()
	n.mustToken(t, "delete", token.ID)
	n.mustToken(t, "delete", forever.Text())
	err := n.Await("the end of deleted tokens", func() error {
		for _, gone := range []jointoken.Token{token, forever} {
			if err := n.accepts(t.Context(), gone); !apierrors.IsUnauthorized(err) {
				return fmt.Errorf("token %s: %v", gone.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if list := n.listTokens(t); len(list) != 2 {
		t.Errorf("left are %v", list)
	}
	n.refusesToken(t, "there is no join token "+token.ID, "delete", token.ID)
	n.refusesToken(t, "there is no join token aaaaaa", "delete", "aaaaaa")
}

// TestTokenTells: a machine that has only a token learns whether this is the
// cluster that it is for, and why it may not join.
func TestTokenTells(t *testing.T) {
	n := prepareNode(t, "disable-agent: true")
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	own := n.ownToken(t)
	status, bundle := n.fetch(t, http.MethodGet, jointoken.CAPath, "")
	if hash, err := jointoken.HashCA([]byte(bundle)); status != http.StatusOK || err != nil || hash != own.CAHash {
		t.Errorf("%s: %d, hash %s, %v, want %s", jointoken.CAPath, status, hash, err, own.CAHash)
	}
	if status, _ := n.fetch(t, http.MethodPost, jointoken.CAPath, ""); status != http.StatusMethodNotAllowed {
		t.Errorf("POST %s: %d", jointoken.CAPath, status)
	}

	expired, deleted := n.newToken(t), n.newToken(t)
	n.mustToken(t, "delete", deleted.ID)
	n.expire(t, expired.ID)
	unknown, wrong := jointoken.New(own.CAHash), own
	wrong.Secret = unknown.Secret
	for _, tc := range []struct {
		token jointoken.Token
		code  int
		state string
	}{
		{own, http.StatusOK, "valid"}, {expired, http.StatusGone, "expired"}, {deleted, http.StatusGone, "deleted"},
		{unknown, http.StatusUnauthorized, "unknown"}, {wrong, http.StatusUnauthorized, "unknown"},
	} {
		err := n.Await(tc.state+" of a token", func() error {
			code, text := n.fetch(t, http.MethodGet, jointoken.StatusPath, tc.token.Bootstrap())
			var status jointoken.Status
			if err := json.Unmarshal([]byte(text), &status); code != tc.code || err != nil || string(status.State) != tc.state {
				return fmt.Errorf("got %d, %s, %v", code, text, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := n.accepts(t.Context(), tc.token); (err == nil) != (tc.code == http.StatusOK) {
			t.Errorf("the API server says %v to a token that is %s", err, tc.state)
		}
	}
}

// fetch asks the API server as a machine does that does not know it yet.
func (n *node) fetch(t *testing.T, method, path, token string) (int, string) {
	t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: n.Netns().Dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // as an agent before it knows the CA
	}}
	request, err := http.NewRequest(method, "https://127.0.0.1:6443"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

// replacesOwnToken: a restart keeps the server's token, and removing the file
// makes another one.
func (n *node) replacesOwnToken(t *testing.T, own jointoken.Token) {
	t.Helper()
	restart := func() jointoken.Token {
		t.Helper()
		if n.Running() {
			if err := n.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.StartControlPlane(); err != nil {
			t.Fatal(err)
		}
		return n.ownToken(t)
	}
	if again := restart(); again != own {
		t.Errorf("a restart changes the server's token from %s to %s", own.ID, again.ID)
	}
	path := n.Layout().ServerToken()
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if mended := restart(); mended != own {
		t.Errorf("a damaged file changes the server's token from %s to %s", own.ID, mended.ID)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := restart()
	if other.ID == own.ID {
		t.Error("removing the file makes no new token")
	}
	err := n.Await("the end of the former token", func() error {
		if err := n.accepts(t.Context(), own); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("it is taken: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

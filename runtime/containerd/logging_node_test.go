package containerd_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/runtime/testnode"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestDebugLogHasNoSecrets runs all that is given secrets at the debug level: neither
// in the log nor in a file of the node is one of them.
func TestDebugLogHasNoSecrets(t *testing.T) {
	const secret = "S3cretValue"
	n := testnode.New(t)
	n.Config.Debug = true
	registry := testnode.ServeRegistry(t, nil, "team/app", testnode.BasicAuth("shop", secret+"Registry"))
	signed := testnode.ServeRegistry(t, nil, "team/app", signing(secret))
	text := "configs:\n  \"" + registry + "\":\n    auth: {username: shop, password: " + secret + "Registry}\n"
	if err := os.WriteFile(n.Config.RegistriesFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(n.Stop)
	for _, ref := range []string{registry + "/team/app:1", signed + "/team/app:1"} {
		request := &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}, Auth: &cri.AuthConfig{Username: "shop", Password: secret + "Registry"}}
		if _, err := n.Images().PullImage(n.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	sandbox, pod := n.Sandbox("secrets")
	n.Env = []*cri.KeyValue{{Key: "PASSWORD", Value: []byte(secret + "Env")}}
	id := n.Container(sandbox, pod, registry+"/team/app:1", "sh", "-c", "sleep 1000", secret+"Arg")
	exec := &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "true", secret + "Exec"}, Timeout: 60}
	if _, err := n.Runtime().ExecSync(n.Context(), exec); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime().Exec(n.Context(), &cri.ExecRequest{ContainerId: id, Cmd: exec.Cmd, Stdout: true}); err != nil {
		t.Fatal(err)
	}
	log := n.Log.String()
	n.Stop()
	n.Start() // which reads what there is
	log += n.Log.String()
	for _, words := range []string{"Sandbox config", "Container config", "spec:", "with command", "Loaded sandbox", "Loaded container"} {
		if !strings.Contains(log, words) {
			t.Errorf("the log has nothing with %q: this test shows nothing", words)
		}
	}
	for line := range strings.Lines(log) {
		if strings.Contains(line, secret) {
			t.Errorf("a secret is in the log: %.300s", line)
		}
	}
	requireNoFileWith(t, n, secret)
}

// signing sets a session, and redirects blobs to addresses that have a signature.
func signing(secret string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Set-Cookie", "session="+secret+"Cookie")
			if strings.Contains(r.URL.Path, "/blobs/") && r.URL.RawQuery == "" {
				w.Header().Set("Location", r.URL.Path+"?signature="+secret+"Signature")
				w.WriteHeader(http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// requireNoFileWith looks for a secret in what containerd reads of registries.
func requireNoFileWith(t *testing.T, n *testnode.Node, secret string) {
	t.Helper()
	err := filepath.WalkDir(n.Config.Layout.RegistryHosts(), func(path string, d os.DirEntry, err error) error {
		if content, _ := os.ReadFile(path); strings.Contains(string(content), secret) {
			t.Errorf("%s holds a secret", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

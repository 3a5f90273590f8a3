package images

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeRegistries(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "registries.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// badRegistries are files with mistakes. NOT.PEM stands for the path of a file that has no
// certificate.
var badRegistries = []struct {
	name, text string
	want       []string // "line: part of the message", one for each error in order
}{
	{"unknown key at the top", "mirrors:\nregistries:\n", []string{`2: unknown key "registries" in registries: the keys there are configs, mirrors`}},
	{"a key of the top with a typo", "miror:\n", []string{`1: unknown key "miror" in registries: did you mean "mirrors"?`}},
	{"unknown key in a mirror", "mirrors:\n  a.test:\n    endpoints: [b]\n", []string{`3: unknown key "endpoints" in a mirror: did you mean "endpoint"?`}},
	{"unknown key in auth", "configs:\n  a.test:\n    auth:\n      user: x\n", []string{`4: unknown key "user" in auth of a.test: the keys there are auth, identity_token, password, username`, "4: auth of a.test is empty"}},
	{"unknown key in tls", "configs:\n  a.test:\n    tls:\n      ca: /x\n", []string{`4: unknown key "ca" in tls of a.test`}},
	{"a key twice", "mirrors:\n  a.test: {endpoint: [b.test]}\n  a.test: {endpoint: [c.test]}\n", []string{`3: key "a.test" is given twice`}},
	{"not a mapping", "- mirrors\n", []string{"1: registries must be a mapping"}},
	{"not YAML", "mirrors:\n  a: [\n", []string{"2: did not find expected node content"}},
	{"wrongly indented", "# of the shop\nmirrors:\n  a.test:\n    endpoint: [b.test]\n   c.test: {}\n", []string{"5: did not find expected key"}},
	{"a list that is not closed", "mirrors:\n  a.test:\n    endpoint: [b.test\nconfigs: {}\n", []string{"3: did not find expected ',' or ']'"}},
	{"registry with a scheme", "mirrors:\n  https://a.test: {}\n", []string{`2: "https://a.test" in mirrors is not a registry`}},
	{"registry with a path", "configs:\n  a.test/team: {}\n", []string{`2: "a.test/team" in configs is not a registry`}},
	{"endpoint is one text", "mirrors:\n  a.test:\n    endpoint: https://b.test\n", []string{"3: endpoint must be a list"}},
	{"endpoint with a wrong scheme", "mirrors:\n  a.test:\n    endpoint:\n      - https://b.test\n      - ftp://c.test\n", []string{`5: "ftp://c.test" is not a URL of a registry`}},
	{"endpoint with a wrong port", "mirrors:\n  a.test:\n    endpoint: ['https://b.test:70000']\n", []string{`3: "https://b.test:70000" is not a URL`}},
	{"endpoint with a space", "mirrors:\n  a.test:\n    endpoint: ['b test']\n", []string{`3: "b test" is not a URL`}},
	{"an alias of another kind", "mirrors:\n  a.test: &a\n    endpoint: [b.test]\n  c.test:\n    endpoint: *a\n", []string{"2: endpoint must be a list"}},
	{"a list that contains itself", "mirrors:\n  a.test:\n    endpoint: &a [*a]\n", []string{"3: expected a text", "3: an endpoint is empty"}},
	{"a second document", "mirrors:\n  a.test:\n    endpoint: [b.test]\n---\nconfigs:\n  b.test:\n    auth: {username: u, password: p}\n", []string{"4: a second document starts here: this file has only one"}},
	{"a second document that is no YAML", "mirrors: {}\n---\na: [\n", []string{"did not find"}},
	{"a merge of a text", "mirrors:\n  a.test: {<<: b.test}\n", []string{"2: << in a mirror must be a mapping"}},
	{"a merge of itself", "mirrors:\n  a.test: &a\n    <<: *a\n", []string{"2: << in a mirror leads back to what it stands in"}},
	{"a merged mistake", "mirrors:\n  a.test: {<<: &m {endpoints: [b.test]}}\n", []string{`2: unknown key "endpoints" in a mirror`}},
	{"a key << as a text", "mirrors:\n  a.test: {'<<': {}}\n", []string{`2: unknown key "<<" in a mirror`}},
	{"rewrite", "mirrors:\n  a.test:\n    rewrite:\n      ^x: y\n", []string{"rewrite is not supported"}},
	{"password without user", "configs:\n  a.test:\n    auth: {password: x}\n", []string{"3: auth of a.test needs both username and password"}},
	{"two credentials", "configs:\n  a.test:\n    auth: {username: u, password: p, identity_token: t}\n", []string{"3: auth of a.test has several credentials"}},
	{"auth is not base64", "configs:\n  a.test:\n    auth: {auth: 'u:p'}\n", []string{"3: auth of a.test has a key auth that is not the base64"}},
	{"credentials for every registry", "configs:\n  '*':\n    auth: {username: u, password: p}\n", []string{"3: auth of * cannot be given"}},
	{"missing file", "configs:\n  a.test:\n    tls:\n      ca_file: /does/not/exist\n", []string{"4: /does/not/exist cannot be used: no such file"}},
	{"relative file", "configs:\n  a.test:\n    tls:\n      ca_file: ca.pem\n", []string{`4: "ca.pem" is not the absolute path`}},
	{"file without a certificate", "configs:\n  a.test:\n    tls:\n      ca_file: NOT.PEM\n", []string{"4: NOT.PEM cannot be used: it contains no certificate"}},
	{"certificate without key", "configs:\n  a.test:\n    tls:\n      cert_file: NOT.PEM\n", []string{"4: tls of a.test needs both"}},
	{"certificate that is none", "configs:\n  a.test:\n    tls:\n      cert_file: NOT.PEM\n      key_file: NOT.PEM\n", []string{"4: cert_file and key_file of a.test do not make"}},
	{"not a truth value", "configs:\n  a.test:\n    tls:\n      insecure_skip_verify: maybe\n", []string{`4: "maybe" is neither true nor false`}},
	{"all problems at once", "a: 1\nb: 2\n", []string{`1: unknown key "a"`, `2: unknown key "b"`}},
}

func TestRegistriesErrorsSayWhere(t *testing.T) {
	t.Parallel()
	notPEM := filepath.Join(t.TempDir(), "not.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range badRegistries {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := writeRegistries(t, strings.ReplaceAll(c.text, "NOT.PEM", notPEM))
			_, err := ReadRegistries(path)
			if err == nil {
				t.Fatal("accepted")
			}
			got := strings.Split(err.Error(), "\n")
			if len(got) != len(c.want) {
				t.Fatalf("errors are %q, want %d", got, len(c.want))
			}
			for i, line := range got {
				want := strings.ReplaceAll(c.want[i], "NOT.PEM", notPEM)
				if !strings.HasPrefix(line, path+":") || !strings.Contains(line, want) {
					t.Errorf("error %q, want %s:%s", line, path, want)
				}
			}
		})
	}
}

func TestRegistriesErrorsDoNotRepeatSecrets(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"mirrors:\n  a.test:\n    endpoint: ['https://user:hunter2@b.test']\n",
		"configs:\n  a.test:\n    auth: {auth: hunter2}\n",
		"configs:\n  a.test:\n    auth: {password: hunter2}\n",
	} {
		_, err := ReadRegistries(writeRegistries(t, text))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v", err)
		}
	}
}

func TestNoRegistriesFile(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", filepath.Join(t.TempDir(), "none")} {
		if _, err := ReadRegistries(path); err != nil {
			t.Error(err)
		}
	}
	for _, text := range []string{"", "# nothing\n", "mirrors:\nconfigs:\n", "mirrors: {}\n"} {
		if _, err := ReadRegistries(writeRegistries(t, text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

const viaM = `
[host."https://m.test"]
capabilities = ["pull", "resolve"]
skip_verify = true
`

// hostsFiles has registries.yaml files, and for each the files that containerd shall read.
var hostsFiles = []struct {
	name, text string
	want       map[string]string
}{
	{
		"mirrors in order, with and without scheme and path",
		"mirrors:\n  docker.io:\n    endpoint: ['https://z.test:5000', a.test, 'http://m.test/hub/', 'https://n.test/v2']\n",
		map[string]string{"docker.io": `
[host."https://z.test:5000"]
capabilities = ["pull", "resolve"]

[host."https://a.test"]
capabilities = ["pull", "resolve"]

[host."http://m.test/hub/"]
capabilities = ["pull", "resolve"]
override_path = true

[host."https://n.test/v2"]
capabilities = ["pull", "resolve"]
`},
	},
	{
		"the registry itself by plain HTTP",
		"mirrors:\n  reg.test:5000:\n    endpoint: ['http://reg.test:5000']\n",
		map[string]string{"reg.test_5000_": `server = "http://reg.test:5000"

[host."http://reg.test:5000"]
capabilities = ["pull", "resolve"]
`},
	},
	{
		"TLS of a registry and of a mirror",
		"mirrors:\n  docker.io:\n    endpoint: ['https://m.test']\nconfigs:\n  m.test:\n    tls: {insecure_skip_verify: true}\n  docker.io:\n    tls: {insecure_skip_verify: false}\n",
		map[string]string{
			"docker.io": `server = "https://registry-1.docker.io"
skip_verify = false

[host."https://m.test"]
capabilities = ["pull", "resolve"]
skip_verify = true
`,
			"m.test": `server = "https://m.test"
skip_verify = true
`,
		},
	},
	{
		// As in k3s: no verification for registries named nowhere, which must
		// not reach mirrors or registries that have an entry.
		"the config of any registry is for those without an entry",
		"mirrors:\n  '*':\n    endpoint: ['https://m.test']\n  own.test:\n    endpoint: ['https://o.test']\nconfigs:\n  m.test:\n    auth: {username: u, password: p}\n  '*':\n    tls: {insecure_skip_verify: true}\n",
		map[string]string{
			"_default": `skip_verify = true

[host."https://m.test"]
capabilities = ["pull", "resolve"]
`,
			"own.test": `
[host."https://o.test"]
capabilities = ["pull", "resolve"]
`,
			"m.test": "",
		},
	},
	{
		"the mirrors of any registry are for those named nowhere",
		"mirrors:\n  '*':\n    endpoint: ['https://m.test']\n  nothing.test: {}\nconfigs:\n  nothing.test: {}\n  tls.test:\n    tls: {insecure_skip_verify: false}\n",
		map[string]string{
			"_default": `
[host."https://m.test"]
capabilities = ["pull", "resolve"]
`,
			"tls.test": `server = "https://tls.test"
skip_verify = false
`,
		},
	},
	{
		"endpoints of this machine without a scheme",
		"mirrors:\n  a.test:\n    endpoint: ['localhost:5000', '127.0.0.1:5000/hub', '[::1]:5000', 'localhost:443', 'localhost', 'https://localhost:5000', 'm.test:5000']\n",
		map[string]string{"a.test": `
[host."http://localhost:5000"]
capabilities = ["pull", "resolve"]

[host."http://127.0.0.1:5000/hub"]
capabilities = ["pull", "resolve"]
override_path = true

[host."http://[::1]:5000"]
capabilities = ["pull", "resolve"]

[host."https://localhost:443"]
capabilities = ["pull", "resolve"]

[host."https://localhost"]
capabilities = ["pull", "resolve"]

[host."https://localhost:5000"]
capabilities = ["pull", "resolve"]

[host."https://m.test:5000"]
capabilities = ["pull", "resolve"]
`},
	},
	{
		"Docker's registry by the name in images",
		"mirrors:\n  docker.io:\n    endpoint: ['https://m.test', docker.io]\nconfigs:\n  docker.io:\n    tls: {insecure_skip_verify: true}\n",
		map[string]string{"docker.io": `server = "https://registry-1.docker.io"
skip_verify = true

[host."https://m.test"]
capabilities = ["pull", "resolve"]

[host."https://registry-1.docker.io"]
capabilities = ["pull", "resolve"]
skip_verify = true
`},
	},
	{
		"Docker's registry by the name of its host",
		"mirrors:\n  a.test:\n    endpoint: ['https://registry-1.docker.io']\nconfigs:\n  registry-1.docker.io:\n    tls: {insecure_skip_verify: true}\n",
		map[string]string{
			"docker.io": `server = "https://registry-1.docker.io"
skip_verify = true
`,
			"a.test": `
[host."https://registry-1.docker.io"]
capabilities = ["pull", "resolve"]
skip_verify = true
`,
		},
	},
	{
		"merge keys: own keys win, then the first of a list, over several levels",
		"mirrors:\n  reg.test: &m {endpoint: ['https://m.test']}\n  two.test: {<<: *m}\n  three.test: {<<: [{endpoint: ['https://m.test']}, {endpoint: ['https://n.test']}]}\n  four.test: {endpoint: ['https://m.test'], <<: {endpoint: ['https://n.test']}}\nconfigs:\n  x.test: &x {tls: &t {insecure_skip_verify: true}}\n  m.test: {<<: {<<: *x}}\n",
		map[string]string{"reg.test": viaM, "two.test": viaM, "three.test": viaM, "four.test": viaM, "x.test": "server = \"https://x.test\"\nskip_verify = true\n", "m.test": "server = \"https://m.test\"\nskip_verify = true\n"},
	},
	{
		"aliases",
		"mirrors:\n  a.test: &all\n    endpoint: &list [&one 'https://m.test']\n  b.test: *all\n  c.test: {endpoint: *list}\n  d.test: {endpoint: [*one]}\nconfigs:\n  m.test:\n    tls: {insecure_skip_verify: &yes true}\n  d.test:\n    tls: {insecure_skip_verify: *yes}\n",
		map[string]string{
			"a.test": viaM, "b.test": viaM, "c.test": viaM,
			"d.test": "server = \"https://d.test\"\nskip_verify = true\n" + viaM,
			"m.test": "server = \"https://m.test\"\nskip_verify = true\n",
		},
	},
}

func TestHostsFiles(t *testing.T) {
	t.Parallel()
	for _, c := range hostsFiles {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := ReadRegistries(writeRegistries(t, c.text))
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "registries")
			// What an earlier start wrote must not stay.
			if err := os.MkdirAll(filepath.Join(dir, "old.test"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := r.WriteHosts(dir); err != nil {
				t.Fatal(err)
			}
			requireHosts(t, dir, c.want)
		})
	}
}

func requireHosts(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(want) {
		t.Errorf("there are %d hosts, want %d: %v", len(entries), len(want), entries)
	}
	for host, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, host, "hosts.toml"))
		if err != nil {
			t.Error(err)
		}
		if string(got) != text {
			t.Errorf("%s is\n%s\nwant\n%s", host, got, text)
		}
	}
}

// TestCredentials: Docker's registry asks for them under the name of its host.
func TestCredentials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want map[string]string // user by host
	}{
		{"configs:\n  a.test:5000:\n    auth: {username: a, password: p}\n  b.test: {}\n", map[string]string{"a.test:5000": "a"}},
		{"configs:\n  docker.io:\n    auth: {username: a, password: p}\n", map[string]string{dockerHubHost: "a"}},
		{"configs:\n  registry-1.docker.io:\n    auth: {username: a, password: p}\n", map[string]string{dockerHubHost: "a"}},
		{"configs:\n  docker.io:\n    auth: {username: a, password: p}\n  registry-1.docker.io:\n    auth: {username: b, password: p}\n", map[string]string{dockerHubHost: "b"}},
	} {
		r, err := ReadRegistries(writeRegistries(t, c.text))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for host, entry := range r.Auths() {
			got[host] = entry.(map[string]any)["auth"].(map[string]any)["username"].(string)
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: credentials for %v, want %v", c.text, got, c.want)
		}
	}
}

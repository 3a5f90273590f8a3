package configfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var known = map[string]Kind{
	"node-name":         Scalar,
	"node-ip":           List,
	"node-label":        List,
	"tls-san":           List,
	"https-listen-port": Scalar,
	"debug":             Bool,
	"disable-agent":     Bool,
}

// sections cuts a golden file into its parts: "-- name --" starts one.
func sections(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	name := "description"
	for line := range strings.Lines(string(data)) {
		if s, ok := strings.CutPrefix(line, "-- "); ok {
			name = strings.TrimSuffix(strings.TrimSpace(s), " --")
			out[name] = ""
			continue
		}
		out[name] += line
	}
	return out
}

// TestGolden runs each testdata file: input files, and the wanted result.
func TestGolden(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			parts := sections(t, path)
			dir := t.TempDir()
			for name, content := range parts {
				if name == "want" || name == "description" {
					continue
				}
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			values, err := Load(filepath.Join(dir, "config.yaml"), false, known)
			got := strings.ReplaceAll(render(values, err), dir+"/", "")
			if got != parts["want"] {
				t.Errorf("got\n%s\nwant\n%s", got, parts["want"])
			}
		})
	}
}

func render(values []Value, err error) string {
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for _, v := range values {
		fmt.Fprintf(&b, "%s = %q (%s:%d)\n", v.Key, v.Values, v.File, v.Line)
	}
	return b.String()
}

func TestLoadOnly(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, text, want string }{
		{"mistakes elsewhere", "data-dri: /a\nnode-name: [x, y]\nnode-name: z\nhttps-listen-port:\ndata-dir: /srv\n", "data-dir = [\"/srv\"] (config.yaml:5)\n"},
		{"not given", "debug: perhaps\n", ""},
		{"a mistake in what is asked for", "data-dir: [/a, /b]\n", "config.yaml:1: data-dir takes one value, not a list\n"},
		{"not YAML", "data-dir: /srv\n\tdebug: true\n", "config.yaml:2: found a tab character that violates indentation\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "config.yaml")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			values, err := LoadOnly(path, false, map[string]Kind{"data-dir": Scalar})
			if got := strings.ReplaceAll(render(values, err), dir+"/", ""); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if values, err := Load(path, false, known); err != nil || len(values) != 0 {
		t.Errorf("default: %v %v", values, err)
	}
	_, err := Load(path, true, known)
	if want := "configuration file " + path + " (--config) does not exist"; err == nil || err.Error() != want {
		t.Errorf("explicit: %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, false, known); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	values := []Value{
		{Key: "node-name", Values: []string{"from-file"}, File: "config.yaml", Line: 1},
		{Key: "https-listen-port", Values: []string{"https"}, File: "config.yaml", Line: 2},
		{Key: "tls-san", Values: []string{"a", "b,c"}, File: "config.yaml", Line: 3},
		{Key: "node-ip", Values: []string{"192.0.2.1"}, File: "config.yaml", Line: 4},
	}
	var got []string
	err := Apply(values, func(key string) bool { return key == "node-name" }, func(key, value string) error {
		if key == "https-listen-port" {
			_, err := strconv.Atoi(value)
			return errors.Unwrap(err)
		}
		got = append(got, key+"="+value)
		return nil
	})
	if want := []string{"tls-san=a", "tls-san=b,c", "node-ip=192.0.2.1"}; !slices.Equal(got, want) {
		t.Errorf("set %q, want %q", got, want)
	}
	if want := `config.yaml:2: https-listen-port: "https": invalid syntax`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

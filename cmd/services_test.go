package cmd

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDataDirOf(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(config, []byte("data-dir: /srv/file\nno-such-key: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		args, env []string
		want      string
	}{
		{"nothing is said", []string{"server", "--config", "/dev/null"}, nil, "/var/lib/brink"},
		{"a flag", []string{"server", "--data-dir=/srv/a"}, []string{"BRINK_DATA_DIR=/srv/b"}, "/srv/a"},
		{"in two words", []string{"agent", "-d", "/srv/a"}, nil, "/srv/a"},
		{"as a shell's", []string{"agent", "'--data-dir=/srv/a'"}, nil, "/srv/a"},
		{"a variable", []string{"server", "--config", config}, []string{"A=b", "BRINK_DATA_DIR=/srv/b"}, "/srv/b"},
		{"the file", []string{"server", "--config", config}, nil, "/srv/file"},
		{"the file of a variable", []string{"server"}, []string{"BRINK_CONFIG=" + config}, "/srv/file"},
		{"a flag that ends the line", []string{"server", "--config=/dev/null", "--data-dir"}, nil, "/var/lib/brink"},
	} {
		if got := dataDirOf(c.args, c.env); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/internal/testerror"
)

// withAgentFlags calls f with parsed flags of brink agent.
func withAgentFlags(t *testing.T, args []string, f func(*cli.Context)) {
	t.Helper()
	withFlagsOf(t, agentFlags(), args, f)
}

func TestAgentSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token := "brink1." + strings.Repeat("0a", 32) + ".abcdef.0123456789abcdef"
	file, empty := write("token", token+"\n"), write("empty", "\n")
	server := "--server=https://192.0.2.1"
	for _, tc := range []struct {
		name string
		args []string
		want string // of the error, "" for none
	}{
		{"token", []string{server, "--token=" + token}, ""},
		{"file", []string{server, "--token-file=" + file}, ""},
		{"no token", []string{server}, ""},
		{"no server", []string{"--token=" + token}, "--server is missing"},
		{"bad server", []string{"--server=ftp://x"}, "--server=ftp://x: servers speak https"},
		{"both", []string{server, "--token=" + token, "--token-file=" + file}, "both given"},
		{"no file", []string{server, "--token-file=" + dir + "/none"}, "no such file"},
		{"empty file", []string{server, "--token-file=" + empty}, "is empty"},
		{"bad token", []string{server, "--token=abcdef.0123456789abcdef"}, "--token: this is only the last half"},
	} {
		withAgentFlags(t, append(plausible, tc.args...), func(c *cli.Context) {
			s, err := readAgent(c)
			if err == nil && s.Join.TokenError != nil {
				err = s.Join.TokenError // reported when the machine turns out to need a token
			}
			if tc.want != "" {
				testerror.OneLine(t, err, tc.want)
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			if s.Join.Server != "192.0.2.1:6443" || s.Join.NodeName != "edge-1" || (s.Join.Token == nil) != (tc.name == "no token") {
				t.Errorf("%s: %+v", tc.name, s.Join)
			}
		})
	}
}

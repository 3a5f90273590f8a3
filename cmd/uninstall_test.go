package cmd

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/internal/layout"
)

// TestInstalledLayout: the data directory is found in a server's and in an agent's
// configuration file. A file with a mistake does not decide what is removed.
func TestInstalledLayout(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct{ file, wrong string }{
		"server":  {"data-dir: " + dir + "\ncluster-cidr: 10.44.0.0/16\n", ""},
		"agent":   {"server: https://192.0.2.1:6443\ntoken: abcdef.0123456789abcdef\ndata-dir: " + dir + "\n", ""},
		"mistake": {"data-dri: " + dir + "\n", "data-dri"},
	} {
		configured(t, test.file)
		var l layout.Layout
		app := newApp(os.Exit)
		app.Commands = []*cli.Command{{Name: "uninstall", Flags: uninstallCommand().Flags, Action: func(c *cli.Context) (err error) {
			l, err = installedLayout(c)
			return err
		}}}
		err := app.Run([]string{"brink", "uninstall"})
		switch {
		case test.wrong != "":
			if err == nil || !strings.Contains(err.Error(), test.wrong) || !strings.Contains(err.Error(), "--data-dir") {
				t.Errorf("%s: got %v", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case l.Data() != dir:
			t.Errorf("%s: got %s, want %s", name, l.Data(), dir)
		}
	}
}

func TestReadLine(t *testing.T) {
	t.Parallel()
	if got := readLine(t.Context(), strings.NewReader("yes\nmore")); got != "yes\n" {
		t.Errorf("got %q", got)
	}
	if got := readLine(t.Context(), strings.NewReader("")); got != "" {
		t.Errorf("the input has ended: got %q", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	never, held := io.Pipe()
	defer held.Close()
	stop() // ^C at the question, before anything is typed
	if got := readLine(ctx, never); got != "" {
		t.Errorf("got %q", got)
	}
}

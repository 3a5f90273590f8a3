package guest

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"brink/e2e/machine"
)

func pause() <-chan time.Time { return time.After(time.Second) }

// saveLogs keeps the console and the log of the guest where the user wants it: in the
// directory that machine.LogsEnv names.
func (g *Guest) saveLogs() {
	dir := os.Getenv(machine.LogsEnv)
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, g.id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		g.Log(err)
		return
	}
	save := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			g.Log(err)
		}
	}
	if b, err := os.ReadFile(g.console()); err == nil {
		save("console", b)
	}
	if g.isOff() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, _ := g.run(ctx, "", "sh", "-c", "journalctl --no-pager 2>/dev/null || cat /var/log/*.log")
	save("log", []byte(r.Stdout))
}

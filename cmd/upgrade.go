package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"brink/cmd/node/upgrade"
	"brink/internal/layout"
	"brink/internal/release"
	"brink/internal/sleep"
	"brink/server/snapshot"
)

func upgradeCommand() *cli.Command {
	return &cli.Command{
		Name:      "upgrade",
		Usage:     "exchange brink for another version, which comes back by itself if the new one fails",
		ArgsUsage: "[VERSION|FILE|URL]",
		Category:  "Run",
		Description: "Downloads, verifies and tries the new version beside the old one, makes a snapshot of the server's\n" +
			"state, and restarts the service of systemd or OpenRC. If the new version does not become Ready, the old\n" +
			"one comes back, with the snapshot where it needs it. Pods run on. A FILE is told by a slash in it, such\n" +
			"as ./brink-linux-arm64.zst, and SHA256SUMS with its signature must lie beside it.",
		Flags: pathFlags(
			&cli.StringFlag{Name: "channel", Value: "stable", Usage: "`NAME` of a channel, stable or latest, where no version is given"},
			&cli.StringFlag{Name: "mirror", Usage: "`URL` of the releases (default: where this brink was told that they are)", EnvVars: []string{"INSTALL_BRINK_MIRROR"}},
			&cli.DurationFlag{Name: "timeout", Value: 5 * time.Minute, Usage: "`TIME` that the new version has to become Ready"},
			&cli.BoolFlag{Name: "no-snapshot", Usage: "make no snapshot of the server's state"},
			&cli.BoolFlag{Name: "force", Usage: "although the node is not ready, or no server says its version, or the version is the same"},
			&cli.BoolFlag{Name: "rollback", Usage: "go back to the version before"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "with --rollback: do not ask when writes will be lost"},
			&cli.BoolFlag{Name: "continue", Hidden: true},
		),
		Action: runUpgrade,
	}
}

func runUpgrade(c *cli.Context) error {
	if c.NArg() > 1 {
		return fmt.Errorf("brink upgrade takes one version, file or URL, got %q too", release.ShownURL(c.Args().Get(1)))
	}
	if err := onlyRoot(c); err != nil {
		return err
	}
	if c.Duration("timeout") < time.Second {
		return errors.New("--timeout: must be at least 1s, such as 5m")
	}
	l, err := locate(c)
	if err != nil {
		return err
	}
	switch {
	case c.Bool("continue"):
		return upgrade.Continue(c.Context, l)
	case c.Bool("rollback"):
		return goBack(c, l)
	}
	return goOn(c, l)
}

func goOn(c *cli.Context, l layout.Layout) error {
	what := c.Args().First()
	if what == "" {
		what = c.String("channel")
	}
	hold := &upgrade.Hold{}
	defer hold.Close()
	isUnderWay, err := upgrade.Resume(c.Context, l, hold)
	if err != nil {
		return err
	}
	if isUnderWay {
		hold.Close()
		return follow(c.Context, l)
	}
	r, err := upgrade.Prepare(c.Context, upgrade.Request{
		Layout: l, Hold: hold, What: what, Mirror: c.String("mirror"), Force: c.Bool("force"), NoSnapshot: c.Bool("no-snapshot"),
		Limit: c.Duration("timeout"), Uses: usesDataDir(l), Say: func(line string) { fmt.Println(line) },
	})
	if errors.Is(err, upgrade.ErrUpToDate) {
		fmt.Printf("%s runs already\n", r.From)
		return nil
	}
	if err != nil {
		return err
	}
	return begin(c.Context, l, hold, r)
}

// begin has the watcher begin, and lets others go on before it is followed.
func begin(ctx context.Context, l layout.Layout, hold *upgrade.Hold, r upgrade.Record) error {
	err := upgrade.Start(ctx, l, r)
	hold.Close()
	if err != nil {
		return err
	}
	return follow(ctx, l)
}

func goBack(c *cli.Context, l layout.Layout) error {
	if c.NArg() > 0 {
		return fmt.Errorf("brink upgrade --rollback goes back to the version before and takes no other, got %q", release.ShownURL(c.Args().First()))
	}
	hold := &upgrade.Hold{}
	defer hold.Close()
	r, loses, err := upgrade.Back{Layout: l, Hold: hold, Uses: usesDataDir(l)}.Plan(c.Context)
	if err != nil {
		return err
	}
	if loses != nil && !c.Bool("yes") {
		if err := confirmLoss(c.Context, r, *loses); err != nil {
			return err
		}
	}
	return begin(c.Context, l, hold, r)
}

// confirmLoss asks where going back takes writes away.
func confirmLoss(ctx context.Context, r upgrade.Record, s snapshot.Listed) error {
	made := s.Made.Format("2006-01-02 15:04:05Z")
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return fmt.Errorf("%s cannot read what %s has written: the state of %s would come back, without all that was written since: give --yes", r.From, r.To, made)
	}
	fmt.Printf("%s cannot read what %s has written. The state of %s comes back, and what was written since is kept aside.\nType yes to go on: ", r.From, r.To, made)
	if strings.TrimSpace(readLine(ctx, os.Stdin)) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// follow tells what the watcher does, which goes on also when nobody listens.
func follow(ctx context.Context, l layout.Layout) error {
	for told := ""; ; {
		now, err := upgrade.Read(l)
		if err != nil {
			return err
		}
		lines := now.Lines()
		switch {
		case now.Phase == upgrade.Done, now.Phase == upgrade.Returned && now.ByHand && (now.Lost == nil || now.Lost.Problem == ""):
			fmt.Println(strings.Join(lines, "\n"))
			return nil
		case !now.IsUnderWay():
			return errors.New(strings.Join(lines, "\n"))
		case lines[0] != told:
			told = lines[0]
			fmt.Println(told)
		}
		if !sleep.For(ctx, 300*time.Millisecond) {
			return errors.New("the upgrade goes on by itself: see brink status")
		}
	}
}

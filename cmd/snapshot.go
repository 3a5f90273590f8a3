package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
	"brink/server/snapshot"
)

func snapshotCommand() *cli.Command {
	return &cli.Command{
		Name:     "snapshot",
		Usage:    "keep the cluster's state in a file, and put it back",
		Category: "Use",
		Description: "A snapshot is one file with the SQLite database, the authorities and the server's token: all that\n" +
			"a new card needs to be the same server. Whoever has the file has the cluster. It has no images, no\n" +
			"volumes and no configuration of /etc/brink.",
		Action: groupAction,
		Subcommands: []*cli.Command{{
			Name:         "save",
			Usage:        "make a snapshot, while the server runs or not",
			ArgsUsage:    "[FILE]",
			Description:  "Without FILE it goes to DATA-DIR/snapshots. Keep a copy of it on another disk.",
			Flags:        pathFlags(datastoreFlags()...),
			OnUsageError: usageError,
			Action:       saveSnapshot,
		}, {
			Name:         "list",
			Aliases:      []string{"ls"},
			Usage:        "list the snapshots in the data directory",
			Description:  "BEFORE is the version before whose first start brink made it by itself. Of these the last three stay.",
			Flags:        pathFlags(outputFlag()),
			OnUsageError: usageError,
			Action:       listSnapshots,
		}, {
			Name:      "restore",
			Usage:     "put a snapshot in the place of the state; brink must not run",
			ArgsUsage: "FILE",
			Description: "The state that was there is kept beside it, in DATA-DIR/server.replaced-TIME. Revisions go on above\n" +
				"all that were handed out, so clients and agents read anew.",
			Flags:        pathFlags(&cli.BoolFlag{Name: "replace", Usage: "the data directory has a state, which is kept aside"}),
			OnUsageError: usageError,
			Action:       restoreSnapshot,
		}},
	}
}

// datastoreFlags are those that say where the state is.
func datastoreFlags() []cli.Flag {
	var out []cli.Flag
	for _, f := range serverFlags() {
		if name := f.Names()[0]; name == "datastore-endpoint" || name == "datastore-endpoint-file" {
			out = append(out, f)
		}
	}
	return out
}

// fileArgument returns the one argument of a command as an absolute path, empty without one.
func fileArgument(c *cli.Context) (string, error) {
	if c.NArg() > 1 {
		return "", fmt.Errorf("%s takes one file, got %q too", commandPath(c), c.Args().Get(1))
	}
	if c.NArg() == 0 {
		return "", nil
	}
	return filepath.Abs(c.Args().First())
}

func onlyRoot(c *cli.Context) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: only root may: use sudo", commandPath(c))
	}
	return nil
}

func saveSnapshot(c *cli.Context) error {
	to, err := fileArgument(c)
	if err == nil {
		err = onlyRoot(c)
	}
	if err != nil {
		return err
	}
	l, err := locate(c)
	if err != nil {
		return err
	}
	elsewhere, err := isElsewhere(c)
	if err != nil {
		return err
	}
	path, m, err := node.SaveSnapshot(c.Context, l, to, elsewhere)
	if err != nil {
		return err
	}
	fmt.Printf("%s: state of %s at revision %d\n", path, m.Node, m.Revision)
	return nil
}

// isElsewhere reports whether a server that does not run has its state in another database.
func isElsewhere(c *cli.Context) (bool, error) {
	values, err := readConfigFile(c, allFlags())
	if err != nil {
		return false, err
	}
	for _, v := range values {
		if v.Key == "datastore-endpoint" || v.Key == "datastore-endpoint-file" {
			return true, nil
		}
	}
	return c.String("datastore-endpoint") != "" || c.String("datastore-endpoint-file") != "", nil
}

func listSnapshots(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err == nil {
		err = onlyRoot(c)
	}
	if err != nil {
		return err
	}
	l, err := locate(c)
	if err != nil {
		return err
	}
	list, err := snapshot.List(l)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(list)
	}
	return printSnapshots(os.Stdout, list)
}

func printSnapshots(out io.Writer, list []snapshot.Listed) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FILE\tMADE\tNODE\tVERSION\tREVISION\tSIZE\tBEFORE")
	for _, s := range list {
		if s.Problem != "" {
			fmt.Fprintf(w, "%s\t%s\n", s.Path, s.Problem)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%.1f MiB\t%s\n", s.Path, s.Made.Format("2006-01-02 15:04:05Z"), s.Node, s.State.Version, s.Revision, float64(s.Size)/(1<<20), s.Before)
	}
	return w.Flush()
}

func restoreSnapshot(c *cli.Context) error {
	file, err := fileArgument(c)
	if err == nil && file == "" {
		err = errors.New("brink snapshot restore: name the file of the snapshot")
	}
	if err == nil {
		err = onlyRoot(c)
	}
	if err != nil {
		return err
	}
	l, err := locate(c)
	if err != nil {
		return err
	}
	done, err := node.RestoreSnapshot(c.Context, l, file, c.Bool("replace"))
	if err != nil {
		return err
	}
	fmt.Printf("restored the state of %s at revision %d, of %s\n", done.Node, done.Revision, done.Made.Format("2006-01-02 15:04:05Z"))
	if done.Replaced != "" {
		fmt.Println("the state before is in", done.Replaced)
	}
	return nil
}

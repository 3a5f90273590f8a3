package cmd

import (
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
	"brink/runtime/images"
)

func imagesCommand() *cli.Command {
	return &cli.Command{
		Name:     "images",
		Usage:    "bring image archives onto this node, list what is there, and make bundles",
		Category: "Use",
		Action:   groupAction,
		Subcommands: []*cli.Command{{
			Name:      "import",
			Usage:     "import archives made by docker save or in OCI layout, compressed or not, and pin their images",
			ArgsUsage: "ARCHIVE...",
			Description: "The images are pinned: the kubelet does not remove them when the disk fills up.\n" +
				"Archives in DATA-DIR/agent/images are imported by themselves, also while brink runs.",
			Flags: pathFlags(&cli.BoolFlag{
				Name:  "no-pin",
				Usage: "let the kubelet remove the images when the disk fills up, also those that an earlier import has pinned",
			}),
			OnUsageError: usageError,
			Action:       importImages,
		}, {
			Name:         "list",
			Aliases:      []string{"ls"},
			Usage:        "list the images that pods can use without a pull",
			Description:  "SIZE is what the image takes compressed. A pinned image is never removed to free disk space.",
			Flags:        pathFlags(outputFlag()),
			OnUsageError: usageError,
			Action:       listImages,
		}, bundleCommand(), exportCommand()},
	}
}

// nodeImages is the image store of the node on this machine, which must run.
func nodeImages(c *cli.Context) (images.Store, error) {
	l, err := locate(c)
	if err != nil {
		return images.Store{}, err
	}
	if _, err := node.AskStatus(c.Context, l); err != nil {
		return images.Store{}, err
	}
	return images.Store{Layout: l}, nil
}

func importImages(c *cli.Context) error {
	if c.NArg() == 0 {
		return fmt.Errorf("brink images import: name at least one archive")
	}
	store, err := nodeImages(c)
	if err != nil {
		return err
	}
	for _, path := range c.Args().Slice() {
		imported, err := store.Import(c.Context, path, !c.Bool("no-pin"), progressOn(os.Stderr))
		for _, i := range imported {
			fmt.Println(i.Name, i.Digest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// progressOn returns a function that shows on a terminal what is going on, in one line that
// is written over, and elsewhere shows nothing.
func progressOn(f *os.File) func(string) {
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(string) {}
	}
	return func(text string) { fmt.Fprintf(f, "\r\033[K%s\r", text) }
}

func listImages(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	store, err := nodeImages(c)
	if err != nil {
		return err
	}
	list, err := store.List(c.Context)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(list)
	}
	return printImages(os.Stdout, list)
}

func printImages(out io.Writer, list []images.Stored) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSIZE\tPINNED\tDIGEST")
	for _, i := range list {
		pinned := "no"
		if i.Pinned {
			pinned = "yes"
		}
		fmt.Fprintf(w, "%s\t%.1f MiB\t%s\t%s\n", i.Name, float64(i.Size)/(1<<20), pinned, i.Digest)
	}
	return w.Flush()
}

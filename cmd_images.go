package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"brink/internal/layout"
	"brink/runtime"
)

func imagesCommand() *cli.Command {
	return &cli.Command{
		Name:     "images",
		Usage:    "bring image archives onto this node",
		Category: "Use",
		Action:   groupAction,
		Subcommands: []*cli.Command{{
			Name:         "import",
			Usage:        "import archives made by docker save or in OCI layout, compressed or not",
			ArgsUsage:    "ARCHIVE...",
			Description:  "Archives in DATA-DIR/agent/images are imported at every start.",
			Flags:        []cli.Flag{dataDirFlag()},
			OnUsageError: usageError,
			Action:       importImages,
		}},
	}
}

func importImages(c *cli.Context) error {
	if c.NArg() == 0 {
		return fmt.Errorf("brink images import: name at least one archive")
	}
	dir, err := dataDir(c)
	if err != nil {
		return err
	}
	l := layout.New(dir)
	if _, err := askStatus(c.Context, l); err != nil {
		return err
	}
	archives := runtime.Archives{Socket: l.ContainerdSocket(), Root: l.ContainerdRoot()}
	for _, path := range c.Args().Slice() {
		images, err := archives.Import(c.Context, path)
		if err != nil {
			return err
		}
		for _, i := range images {
			fmt.Println(i.Name, i.Digest)
		}
	}
	return nil
}

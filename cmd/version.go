package cmd

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:     "version",
		Usage:    "print the versions of brink and what it embeds",
		Category: "Help",
		Flags:    []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			return printVersions(c)
		},
	}
}

func printVersions(c *cli.Context) error {
	if asJSON, err := wantsJSON(c); err != nil {
		return err
	} else if asJSON {
		byName := map[string]string{}
		for _, v := range node.Versions() {
			byName[v.Name] = v.Version
		}
		return printJSON(byName)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, v := range node.Versions() {
		fmt.Fprintf(w, "%s\t%s\n", v.Name, v.Version)
	}
	return w.Flush()
}

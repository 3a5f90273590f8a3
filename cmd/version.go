package cmd

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
	"brink/internal/licenses"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:     "version",
		Usage:    "print the versions of brink and what it embeds",
		Category: "Help",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "licenses", Usage: "print the licences of everything that this binary carries"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.Bool("licenses") {
				return printLicenses(c)
			}
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

func printLicenses(c *cli.Context) error {
	asJSON, err := wantsJSON(c)
	if err != nil {
		return err
	}
	list, err := licenses.Read()
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(list)
	}
	return list.Write(os.Stdout)
}

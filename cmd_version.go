package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/urfave/cli/v2"
)

// version is set by the linker: scripts/build.
var version = "dev"

// component is a part of brink whose version a user may need to know.
type component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// modules are the embedded parts and the modules that carry their versions.
var modules = []struct{ name, path string }{
	{"kubernetes", "k8s.io/kubernetes"},
	{"containerd", "github.com/containerd/containerd/v2"},
	{"kine", "github.com/k3s-io/kine"},
	{"go-sqlite3", "github.com/mattn/go-sqlite3"},
}

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

func versions() []component {
	list := []component{{"brink", version}}
	info, _ := debug.ReadBuildInfo()
	for _, m := range modules {
		for _, dep := range info.Deps {
			if dep.Path == m.path {
				list = append(list, component{m.name, dep.Version})
			}
		}
	}
	return append(list, component{"go", runtime.Version()}, component{"platform", runtime.GOOS + "/" + runtime.GOARCH})
}

func printVersions(c *cli.Context) error {
	if asJSON, err := wantsJSON(c); err != nil {
		return err
	} else if asJSON {
		byName := map[string]string{}
		for _, v := range versions() {
			byName[v.Name] = v.Version
		}
		return printJSON(byName)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, v := range versions() {
		fmt.Fprintf(w, "%s\t%s\n", v.Name, v.Version)
	}
	return w.Flush()
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` of the output: text or json", Value: "text"}
}

func wantsJSON(c *cli.Context) (bool, error) {
	switch format := c.String("output"); format {
	case "text":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, fmt.Errorf("--output=%s: must be text or json", format)
	}
}

func printJSON(v any) error {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

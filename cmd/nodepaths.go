package cmd

import (
	"errors"
	"flag"
	"io/fs"

	"github.com/urfave/cli/v2"

	"brink/internal/configfile"
	"brink/internal/datadir"
	"brink/internal/layout"
)

// nodePaths are where the node of this machine keeps what the commands beside
// `brink server` need.
type nodePaths struct {
	layout     layout.Layout
	kubeconfig string
}

// pathKeys are the keys of the configuration file that the paths depend on.
var pathKeys = map[string]configfile.Kind{"data-dir": configfile.Scalar, "write-kubeconfig": configfile.Scalar}

// pathFlags are the flags of a command that needs to know the paths, with more of its
// own.
func pathFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{dataDirFlag(), configFlag()}, more...)
}

// locate returns the layout that `brink server` would use: by c's flags, else the
// environment, else the configuration file, else the default.
func locate(c *cli.Context) (layout.Layout, error) {
	if !c.IsSet("data-dir") {
		if err := applyPaths(c, "data-dir"); err != nil {
			return layout.Layout{}, err
		}
	}
	dir, err := dataDir(c)
	return datadir.Locate(dir), err
}

// defaultPaths are the paths for a command whose flags are not brink's.
func defaultPaths() (nodePaths, error) {
	flags := pathFlags(writeKubeconfigFlag())
	set := flag.NewFlagSet("paths", flag.ContinueOnError)
	for _, f := range flags {
		if err := f.Apply(set); err != nil {
			return nodePaths{}, err
		}
	}
	c := cli.NewContext(nil, set, nil)
	c.Command = &cli.Command{Flags: flags}
	return pathsOf(c)
}

// pathsOf returns the paths by c's flags, which are those of pathFlags and
// writeKubeconfigFlag.
func pathsOf(c *cli.Context) (nodePaths, error) {
	if err := applyPaths(c, "data-dir", "write-kubeconfig"); err != nil {
		return nodePaths{}, err
	}
	dir, err := dataDir(c)
	if err != nil {
		return nodePaths{}, err
	}
	l := datadir.Locate(dir)
	kubeconfig, err := kubeconfigPath(c, l)
	return nodePaths{layout: l, kubeconfig: kubeconfig}, err
}

// applyPaths sets the flags with these names that the configuration file gives and
// nothing else does. Mistakes in other keys do not matter here: a node whose file has
// just been changed can still be looked at. Nor does it matter that a user who is not
// root may not read the default file: the error of what they ask for next is clearer.
func applyPaths(c *cli.Context, names ...string) error {
	keys := map[string]configfile.Kind{}
	for _, name := range names {
		keys[name] = pathKeys[name]
	}
	values, err := configfile.LoadOnly(c.String("config"), c.IsSet("config"), keys)
	if errors.Is(err, fs.ErrPermission) && !c.IsSet("config") {
		return nil
	}
	if err != nil {
		return err
	}
	return configfile.Apply(values, c.IsSet, c.Set)
}

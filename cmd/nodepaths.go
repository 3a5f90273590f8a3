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

// place is where the node of this machine keeps what the commands beside
// `brink server` need.
type place struct {
	layout     layout.Layout
	kubeconfig string
}

// placeKeys are the keys of the configuration file that decide on a place.
var placeKeys = map[string]configfile.Kind{"data-dir": configfile.Scalar, "write-kubeconfig": configfile.Scalar}

// placeFlags are those of a command that needs to know the place.
func placeFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{dataDirFlag(), configFlag()}, more...)
}

// locate returns the layout by c's flags, else the environment, else the
// configuration file, else brink's default: the same as that of `brink server`.
func locate(c *cli.Context) (layout.Layout, error) {
	if !c.IsSet("data-dir") {
		if err := applyPlace(c, "data-dir"); err != nil {
			return layout.Layout{}, err
		}
	}
	dir, err := dataDir(c)
	return datadir.Locate(dir), err
}

// defaultPlace is the place for a command whose flags are not brink's.
func defaultPlace() (place, error) {
	flags := placeFlags(writeKubeconfigFlag())
	set := flag.NewFlagSet("place", flag.ContinueOnError)
	for _, f := range flags {
		if err := f.Apply(set); err != nil {
			return place{}, err
		}
	}
	c := cli.NewContext(nil, set, nil)
	c.Command = &cli.Command{Flags: flags}
	return placeOf(c)
}

// placeOf is the place by c's flags, which are those of placeFlags with
// writeKubeconfigFlag.
func placeOf(c *cli.Context) (place, error) {
	if err := applyPlace(c, "data-dir", "write-kubeconfig"); err != nil {
		return place{}, err
	}
	dir, err := dataDir(c)
	if err != nil {
		return place{}, err
	}
	l := datadir.Locate(dir)
	kubeconfig, err := kubeconfigPath(c, l)
	return place{layout: l, kubeconfig: kubeconfig}, err
}

// applyPlace sets the flags with these names that the configuration file gives
// and nothing else does. Mistakes in other keys do not matter here: one wants to
// look at a node whose file has just been changed. Nor does it matter that a user
// who is not root may not read the file of the default place: what they ask for
// next says so better.
func applyPlace(c *cli.Context, names ...string) error {
	keys := map[string]configfile.Kind{}
	for _, name := range names {
		keys[name] = placeKeys[name]
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

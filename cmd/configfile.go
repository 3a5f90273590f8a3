package cmd

import (
	"slices"

	"github.com/urfave/cli/v2"

	"brink/internal/configfile"
)

// applyConfigFile sets the flags that the configuration files give and that
// neither the command line nor the environment has set.
func applyConfigFile(c *cli.Context, flags []cli.Flag) error {
	values, err := readConfigFile(c, flags)
	if err != nil {
		return err
	}
	return configfile.Apply(values, givenIn(c), c.Set)
}

// readConfigFile reads the files that --config names; their keys are the names
// of flags.
func readConfigFile(c *cli.Context, flags []cli.Flag) ([]configfile.Value, error) {
	known := map[string]configfile.Kind{}
	for _, f := range flags {
		name := f.Names()[0]
		switch f.(type) {
		case *cli.BoolFlag:
			known[name] = configfile.Bool
		case *cli.StringSliceFlag:
			known[name] = configfile.List
		default:
			known[name] = configfile.Scalar
		}
	}
	delete(known, "config") // a file cannot name another
	return configfile.Load(c.String("config"), c.IsSet("config"), known)
}

// sameSetting are flags for the same setting.
var sameSetting = [][]string{{backendFlag, backendAlias}, {"token", "token-file"}, {"datastore-endpoint", "datastore-endpoint-file"}}

// givenIn returns a function that reports whether a setting was given on the command
// line or in the environment, by any of its flags. What is set later, from a file, does
// not count: two values in files are a mistake to be reported.
func givenIn(c *cli.Context) func(name string) bool {
	given := map[string]bool{}
	for _, flags := range sameSetting {
		isGiven := slices.ContainsFunc(flags, c.IsSet)
		for _, name := range flags {
			given[name] = isGiven
		}
	}
	return func(name string) bool { return given[name] || c.IsSet(name) }
}

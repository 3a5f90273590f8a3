// Package componentargs parses the flags of embedded Kubernetes components:
// brink's own defaults first, then what the user passes through
// --kube-apiserver-arg and its siblings, in k3s's spelling (name=value, dashes
// in front optional).
package componentargs

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Parse sets fs to defaults, each "name=value", overridden by extra. A flag
// that the user names replaces brink's default for it, also where the flag is
// a list. option is the brink flag that extra came from, for errors.
func Parse(fs *pflag.FlagSet, option string, defaults, extra []string) error {
	fs.SetNormalizeFunc(dashes)
	// Upstream marks flags as deprecated in favour of a file, which it tells
	// on the terminal; the flags are there and there is no file.
	fs.SetOutput(io.Discard)
	overridden := map[string]bool{}
	for _, arg := range extra {
		name, _, _ := split(arg)
		if name == "" || fs.Lookup(name) == nil {
			return fmt.Errorf("--%s=%s: there is no flag %q", option, arg, name)
		}
		overridden[name] = true
	}
	for _, arg := range defaults {
		if name, value, _ := split(arg); !overridden[name] {
			if err := fs.Set(name, value); err != nil {
				return fmt.Errorf("setting %s: %w", arg, err)
			}
		}
	}
	for _, arg := range extra {
		name, value, given := split(arg)
		if !given {
			value = fs.Lookup(name).NoOptDefVal
		}
		if err := fs.Set(name, value); err != nil {
			return fmt.Errorf("--%s=%s: %w", option, arg, err)
		}
	}
	return nil
}

// Name is the flag that arg sets.
func Name(arg string) string {
	name, _, _ := split(arg)
	return name
}

// split cuts "--name=value"; given is false when there is no "=".
func split(arg string) (name, value string, given bool) {
	name, value, given = strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return strings.ReplaceAll(name, "_", "-"), value, given
}

// dashes is what the components' own commands do to flag names.
func dashes(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
}

// Port is the port that a flag moves a listener to: a number, or what follows the
// last colon of an address.
func Port(args []string, flag string, standard uint16) uint16 {
	port := standard
	for _, arg := range args {
		if Name(arg) != flag {
			continue
		}
		_, value, _ := strings.Cut(arg, "=")
		if n, err := strconv.ParseUint(value[strings.LastIndex(value, ":")+1:], 10, 16); err == nil {
			port = uint16(n)
		}
	}
	return port
}

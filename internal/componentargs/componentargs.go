// Package componentargs parses the flags of embedded Kubernetes components: brink's own
// defaults first, then the user's from --kube-apiserver-arg and its siblings. They are
// spelled as for k3s: name=value, with or without dashes in front.
package componentargs

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Parse sets the flags of fs to defaults, each "name=value", overridden by extra, the
// user's. A flag in extra replaces the default, also if it is a list. option is brink's
// flag that gave extra, for errors.
func Parse(fs *pflag.FlagSet, option string, defaults, extra []string) error {
	fs.SetNormalizeFunc(dashes)
	// Upstream has deprecated flags in favour of a file and says so on the terminal; the
	// flags work, and there is no file.
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

// Name returns the flag that arg sets.
func Name(arg string) string {
	name, _, _ := split(arg)
	return name
}

// split cuts "--name=value". given reports whether there is a "=".
func split(arg string) (name, value string, given bool) {
	name, value, given = strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return strings.ReplaceAll(name, "_", "-"), value, given
}

// dashes replaces underscores in flag names, as the components' own commands do.
func dashes(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
}

// Port returns the port to which a flag moves a listener, and standard without the flag.
// Its value is a number or an address; anything else is left to the component to refuse.
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

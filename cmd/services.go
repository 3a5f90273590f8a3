package cmd

import (
	"slices"
	"strings"

	"brink/internal/configfile"
	"brink/internal/datadir"
	"brink/internal/layout"
)

// usesDataDir returns a function that reports whether a brink with these arguments and
// variables, a service's, would use the data directory of l. It reads its configuration
// file as a start would; one that cannot be read names no directory.
func usesDataDir(l layout.Layout) func(args, env []string) bool {
	return func(args, env []string) bool {
		return datadir.Locate(dataDirOf(args, env)).Data() == l.Data()
	}
}

func dataDirOf(args, env []string) string {
	if dir := settingOf(args, env, "data-dir", "d"); dir != "" {
		return dir
	}
	config := settingOf(args, env, "config", "c")
	isNamed := config != ""
	if !isNamed {
		config = layout.ConfigFile
	}
	keys := map[string]configfile.Kind{"data-dir": configfile.Scalar}
	values, err := configfile.LoadOnly(config, isNamed, keys)
	for _, v := range values {
		if err == nil && v.Key == "data-dir" && len(v.Values) == 1 {
			return v.Values[0]
		}
	}
	return layout.DefaultData
}

// settingOf returns the value of a flag in a service's arguments, whose words may still
// have a shell's quotes, else that of its variable.
func settingOf(args, env []string, name, short string) string {
	for i, arg := range args {
		arg = strings.Trim(arg, `"'`)
		flag, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") || flag != name && flag != short {
			continue
		}
		if hasValue {
			return value
		}
		if i+1 < len(args) {
			return strings.Trim(args[i+1], `"'`)
		}
	}
	variable := "BRINK_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "="
	for _, v := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(v, variable); ok {
			return value
		}
	}
	return ""
}

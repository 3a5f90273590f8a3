// Package argsecrets takes secrets out of what the kernel shows of this process:
// its arguments, which every user of the machine can read (ps), and its
// environment.
//
// The kernel shows both from where they lie in the process's memory, which is
// where Go's strings point too. So the secrets are copied, overwritten in place,
// and given back by Restore: what reads os.Args after it sees no difference.
//
// This happens while the package is initialised, and it is the first of the binary
// to be: Go initialises, of the packages whose imports are, always the one whose
// path comes first (since Go 1.21), and this one has no imports. Initialising all
// others takes a loaded board seconds. A test of cmd compares. That is also why
// arguments and environment come from the runtime by linkname, from the functions
// that it has for os and syscall: those packages are initialised later.
package argsecrets

import "unsafe"

//go:linkname runtimeArgs os.runtime_args
func runtimeArgs() []string

//go:linkname runtimeEnvs syscall.runtime_envs
func runtimeEnvs() []string

// flags are those whose values are secrets, in all commands; an endpoint has the
// database's password in it.
var flags = []string{"token", "datastore-endpoint"}

// Variables are the environment's names of the same settings. They are brink's
// alone: what it starts has no business with them.
var Variables = []string{"BRINK_TOKEN", "BRINK_DATASTORE_ENDPOINT"}

// args and environment are copies with the secrets in them.
var (
	args        = hideArgs(runtimeArgs())
	environment = hideEnvironment(runtimeArgs(), runtimeEnvs())
)

// Restore returns the arguments as they were given, for os.Args, and calls set for
// each variable of the environment that was hidden. Set that way, a variable is in
// Go's own copy of the environment only.
func Restore(set func(name, value string) error) ([]string, error) {
	for _, name := range Variables {
		if value, given := environment[name]; given {
			if err := set(name, value); err != nil {
				return nil, err
			}
		}
	}
	return append([]string(nil), args...), nil
}

// hideArgs returns args as they were. Their strings are changed in place where a
// secret stands.
func hideArgs(args []string) []string {
	out := append([]string(nil), args...)
	for i := 1; i < len(args); i++ {
		name, value, hasValue := cut(args[i])
		switch {
		case hasValue && isSecret(args, name):
			out[i] = copyOf(args[i])
			overwrite(value)
		case !hasValue && i > 1 && isSecretFlag(args, out[i-1]):
			out[i] = copyOf(args[i])
			overwrite(args[i])
		}
	}
	return out
}

// isSecretFlag tells whether the value of arg stands in the next argument and is a
// secret.
func isSecretFlag(args []string, arg string) bool {
	name, _, hasValue := cut(arg)
	return !hasValue && isSecret(args, name)
}

// isSecret looks at a flag as it was written. -t is --token only for brink's own
// commands; for kubectl's it is a terminal.
func isSecret(args []string, name string) bool {
	short := len(args) > 1 && (args[1] == "agent" || args[1] == "check")
	for dashes := 1; dashes <= 2 && dashes < len(name); dashes++ {
		if name[dashes-1] != '-' {
			return false
		}
		flag := name[dashes:]
		for _, secret := range flags {
			if flag == secret {
				return true
			}
		}
		if flag == "t" && short {
			return true
		}
	}
	return false
}

// hideEnvironment returns the secrets of the environment, by name, and overwrites
// them where the kernel has put them: right behind the arguments. The runtime's
// strings are copies of those, unlike its arguments.
func hideEnvironment(args, envs []string) map[string]string {
	out := map[string]string{}
	if len(args) == 0 || args[0] == "" {
		return out
	}
	place := unsafe.Pointer(unsafe.StringData(args[0]))
	for _, arg := range args {
		place = unsafe.Add(place, len(arg)+1)
	}
	for _, env := range envs {
		shown := unsafe.String((*byte)(place), len(env))
		if shown != env {
			return out // somebody has moved it
		}
		if name, value, _ := cut(shown); isVariable(name) {
			out[copyOf(name)] = copyOf(value)
			overwrite(value)
		}
		place = unsafe.Add(place, len(env)+1)
	}
	return out
}

func isVariable(name string) bool {
	for _, secret := range Variables {
		if name == secret {
			return true
		}
	}
	return false
}

// cut is strings.Cut at the first "=". What it returns lies where s does.
func cut(s string) (name, value string, found bool) {
	for i := range len(s) {
		if s[i] == '=' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// copyOf is a copy whatever the compiler makes of it: for string([]byte(s)) it
// makes none.
func copyOf(s string) string {
	if s == "" {
		return ""
	}
	bytes := make([]byte, len(s))
	copy(bytes, s)
	return unsafe.String(&bytes[0], len(bytes))
}

// overwrite changes the bytes of an argument in place. Go's strings of arguments
// are no copies (runtime.goargs), and the memory is writable (execve(2)).
func overwrite(s string) {
	if s == "" {
		return
	}
	bytes := unsafe.Slice(unsafe.StringData(s), len(s))
	for i := range bytes {
		bytes[i] = '*'
	}
}

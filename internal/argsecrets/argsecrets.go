// Package argsecrets hides secrets in what the kernel shows of this process: its
// arguments, which every user of the machine can read (ps), and its environment.
//
// The kernel reads both from the process's memory, at the place to which Go's strings
// point too. So the secrets are copied, overwritten in place, and given back by Restore:
// code that reads os.Args after it sees no difference.
//
// This happens while the package is initialised, before any other of the binary that
// is not the runtime's own: initialising all of them takes a loaded board seconds, in
// which the secrets could be read. Of the packages whose imports are initialised, Go
// takes the one with the first path (since Go 1.21), and this one has no imports. A test
// of cmd compares the order. That is also why arguments and environment come from the
// runtime by linkname, from the functions that it has for os and syscall: those packages
// are initialised later. It is the only package of brink's that changes anything at
// import.
package argsecrets

import "unsafe"

//go:linkname runtimeArgs os.runtime_args
func runtimeArgs() []string

//go:linkname runtimeEnvs syscall.runtime_envs
func runtimeEnvs() []string

// flags are those whose values are secrets, in all commands; an endpoint has the
// database's password in it.
var flags = []string{"token", "datastore-endpoint"}

// Variables are the environment variables of the same settings. They are for brink
// alone, not for the processes that it starts.
var Variables = []string{"BRINK_TOKEN", "BRINK_DATASTORE_ENDPOINT"}

// args and environment are copies with the secrets in them.
var (
	args        = hideArgs(runtimeArgs())
	environment = hideEnvironment(runtimeArgs(), runtimeEnvs())
)

// Restore returns the arguments as they were given, for os.Args, and calls set for each
// environment variable that was hidden. os.Setenv changes Go's own copy of the
// environment only, which the kernel does not show.
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

// hideArgs returns a copy of args and overwrites the secrets in args in place.
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

// isSecretFlag reports whether arg is a flag whose value, a secret, is the next argument.
func isSecretFlag(args []string, arg string) bool {
	name, _, hasValue := cut(arg)
	return !hasValue && isSecret(args, name)
}

// isSecret reports whether name, a flag as it was written, has a secret as its value. -t
// is --token for brink's own commands only; for kubectl it asks for a terminal.
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

// hideEnvironment returns the secrets of the environment, by name, and overwrites them
// where the kernel has put them: right after the arguments. Unlike the arguments, the
// runtime's strings of the environment are copies.
func hideEnvironment(args, envs []string) map[string]string {
	out := map[string]string{}
	if len(args) == 0 || args[0] == "" {
		return out
	}
	next := unsafe.Pointer(unsafe.StringData(args[0]))
	for _, arg := range args {
		next = unsafe.Add(next, len(arg)+1)
	}
	for _, env := range envs {
		shown := unsafe.String((*byte)(next), len(env))
		if shown != env {
			return out // it lies elsewhere
		}
		if name, value, _ := cut(shown); isVariable(name) {
			out[copyOf(name)] = copyOf(value)
			overwrite(value)
		}
		next = unsafe.Add(next, len(env)+1)
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

// cut is strings.Cut at the first "=". The strings that it returns share the memory of s.
func cut(s string) (name, value string, found bool) {
	for i := range len(s) {
		if s[i] == '=' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// copyOf returns a copy of s that the compiler cannot leave out, as it does for
// string([]byte(s)).
func copyOf(s string) string {
	if s == "" {
		return ""
	}
	bytes := make([]byte, len(s))
	copy(bytes, s)
	return unsafe.String(&bytes[0], len(bytes))
}

// overwrite replaces the bytes of an argument in place. Go's strings of arguments are not
// copies (runtime.goargs), and the memory is writable (execve(2)).
func overwrite(s string) {
	if s == "" {
		return
	}
	bytes := unsafe.Slice(unsafe.StringData(s), len(s))
	for i := range bytes {
		bytes[i] = '*'
	}
}

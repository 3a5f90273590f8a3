// Command linker makes a linker that leaves out methods which nothing calls, and stands
// between go build and it.
//
//	linker make DIRECTORY        makes DIRECTORY/link, for what GOOS and GOARCH say
//	linker exec LINK TOOL ARG... runs a tool for go build -toolexec, and LINK for the linker
//
// Go's linker drops a method that no call and no interface needs, unless some code that is
// linked looks methods up by names that are known at run time only. Then it keeps every
// exported method of every type. In brink one function does so: text/template's evalField,
// for templates like {{.Name}}, which help texts are made of. Those templates are in the
// sources, so the names are known after all: the linker that is made here keeps methods of
// these names, as Go's own does for a name that is a constant. That is 21 of 172 MB.
//
// The linker is that of the Go version in use with one line changed. Nothing else is: what
// is compiled, and the build cache, are the same with and without it. A template from
// outside that asks for another method would find none; brink's only one is kubectl's
// -o go-template, which gets maps, and those have no methods.
package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "linker:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "make":
		return makeLinker(args[1])
	case len(args) > 3 && args[0] == "exec":
		return execTool(args[1], args[2], args[3:])
	}
	return errors.New("usage: linker make DIRECTORY | linker exec LINK TOOL ARG...")
}

// execTool becomes the tool. Go asks each for its version and takes the answer for what it
// is: another linker has to give another one.
func execTool(link, tool string, args []string) error {
	if filepath.Base(tool) != "link" {
		return syscall.Exec(tool, append([]string{tool}, args...), os.Environ())
	}
	if args[0] != "-V=full" {
		return syscall.Exec(link, append([]string{tool}, args...), os.Environ())
	}
	version, err := exec.Command(tool, args...).Output()
	if err != nil {
		return err
	}
	content, err := os.ReadFile(link)
	if err != nil {
		return err
	}
	fmt.Printf("%s trimmed=%x\n", strings.TrimSpace(string(version)), sha256.Sum256(content))
	return nil
}

func makeLinker(dir string) error {
	names, err := templateMethods(".")
	if err != nil {
		return err
	}
	if len(names) < 50 {
		return fmt.Errorf("only %d names in templates: the search is broken", len(names))
	}
	root, err := output("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return build(dir, root, names)
}

func output(argv ...string) (string, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

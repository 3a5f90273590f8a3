package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// deadcode is the file of the linker that is changed, below GOROOT.
const deadcode = "src/cmd/link/internal/ld/deadcode.go"

// seen is the line that makes the linker keep everything, and trimmed is in its place: the
// function that is known keeps the methods of certain names.
const (
	seen = `		d.reflectSeen = d.reflectSeen || d.ldr.IsReflectMethod(symIdx)
`
	trimmed = `		if d.ldr.IsReflectMethod(symIdx) && d.ldr.SymName(symIdx) == "text/template.(*state).evalField" {
			for _, name := range []string{%s} {
				d.genericIfaceMethod[name] = true
			}
		} else {
			d.reflectSeen = d.reflectSeen || d.ldr.IsReflectMethod(symIdx)
		}
`
)

// patch returns the changed file.
func patch(source string, names []string) (string, error) {
	if strings.Count(source, seen) != 1 {
		return "", fmt.Errorf("%s of this Go is not as it was in Go 1.26: compare it with scripts/linker/build.go", deadcode)
	}
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	return strings.Replace(source, seen, fmt.Sprintf(trimmed, strings.Join(quoted, ", ")), 1), nil
}

// build compiles the linker of the Go in root with the changed file, for this machine. Go
// refuses to replace files of a toolchain that it has downloaded itself, by their path: so
// this one has another path, a link.
func build(dir, root string, names []string) error {
	source, err := os.ReadFile(filepath.Join(root, deadcode))
	if err != nil {
		return err
	}
	changed, err := patch(string(source), names)
	if err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	goroot, overlay, file := filepath.Join(dir, "goroot"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "deadcode.go")
	os.Remove(goroot)
	if err := os.Symlink(root, goroot); err != nil {
		return err
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(goroot, deadcode): file}})
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{file: []byte(changed), overlay: replace} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return compile(goroot, overlay, filepath.Join(dir, "link"))
}

func compile(goroot, overlay, out string) error {
	cmd := exec.Command(filepath.Join(goroot, "bin", "go"), "build", "-trimpath", "-overlay", overlay, "-o", out, "cmd/link")
	cmd.Env = append(os.Environ(), "GOROOT="+goroot, "GOTOOLCHAIN=local", "GOFLAGS=", "CGO_ENABLED=0",
		"GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compiling the linker: %w", err)
	}
	return nil
}

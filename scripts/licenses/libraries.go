package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"brink/internal/licenses"
)

// addGo adds the standard library and the runtime, which all programs contain.
func (c *collector) addGo() error {
	out, err := exec.Command("go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return fmt.Errorf("asking for Go's directory: %w", err)
	}
	root, version, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	texts, err := readAll(filepath.Join(root, "LICENSE"), filepath.Join(root, "PATENTS"))
	if err != nil {
		return fmt.Errorf("reading Go's licence: %w", err)
	}
	for _, p := range programs {
		c.add(p.name, licenses.Component{Name: "Go standard library", Version: version, License: "BSD-3-Clause"}, texts...)
	}
	return nil
}

// sqliteVersion is in the header that the Go module brings along.
var sqliteVersion = regexp.MustCompile(`#define SQLITE_VERSION +"([0-9.]+)"`)

// addSQLite adds the C library inside the module go-sqlite3.
func (c *collector) addSQLite() error {
	const module = "github.com/mattn/go-sqlite3"
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("looking for %s: %w", module, err)
	}
	path := filepath.Join(strings.TrimSpace(string(dir)), "sqlite3-binding.h")
	header, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading SQLite's version: %w", err)
	}
	version := sqliteVersion.FindSubmatch(header)
	if version == nil {
		return fmt.Errorf("%s does not tell the version of SQLite", path)
	}
	c.add("brink", licenses.Component{Name: "SQLite", Version: string(version[1]), License: "blessing",
		Note: "in the public domain, its authors disclaim copyright; the Go package around it is " + module + "."})
	return nil
}

// addC adds the C libraries that are linked statically. Their texts are those of the
// packages that scripts/deps installs.
func (c *collector) addC(share string) error {
	lgpl := filepath.Join(share, "common-licenses", "LGPL-2.1")
	libc, errLibc := readAll(filepath.Join(share, "doc", "libc6-dev", "copyright"), lgpl)
	seccomp, errSeccomp := readAll(filepath.Join(share, "doc", "libseccomp-dev", "copyright"), lgpl)
	if err := errors.Join(errLibc, errSeccomp); err != nil {
		return fmt.Errorf("%w\non a system that is not Debian, or one without documentation, give LICENSES_SHARE=DIRECTORY with the files doc/libc6-dev/copyright, doc/libseccomp-dev/copyright, those of nft's libraries and common-licenses", err)
	}
	glibc, errGlibc := glibcVersion()
	gcc, errGCC := output(compiler(), "-dumpfullversion")
	version, errVersion := output("pkg-config", "--modversion", "libseccomp")
	if err := errors.Join(errGlibc, errGCC, errVersion); err != nil {
		return err
	}
	const relink = "linked statically; brink's sources and scripts/build are what is needed to link it with another version of the library."
	for _, p := range programs {
		if p.cgo {
			c.add(p.name, licenses.Component{Name: "glibc", Version: glibc, License: "LGPL-2.1-or-later", Note: relink}, libc...)
			c.add(p.name, licenses.Component{Name: "libgcc", Version: gcc, License: "GPL-3.0-or-later WITH GCC-exception-3.1",
				Note: "parts that the compiler adds to each program; its exception allows to give away the result under any terms."})
		}
	}
	c.add("runc", licenses.Component{Name: "libseccomp", Version: version, License: "LGPL-2.1-only", Note: relink}, seccomp...)
	return nil
}

// compiler is the C compiler of the target, as scripts/build-payload finds it.
func compiler() string {
	if cc := os.Getenv("CC"); cc != "" {
		return cc
	}
	return "gcc"
}

// glibcVersion asks the compiler which C library it builds for.
func glibcVersion() (string, error) {
	cmd := exec.Command(compiler(), "-E", "-P", "-")
	cmd.Stdin = strings.NewReader("#include <features.h>\nversion __GLIBC__ __GLIBC_MINOR__\n")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its C library: %w", compiler(), err)
	}
	fields := strings.Fields(string(out))
	if len(fields) < 3 || fields[len(fields)-2] == "__GLIBC__" {
		return "", fmt.Errorf("%s builds for a C library that is not glibc: add it to scripts/licenses", compiler())
	}
	return strings.Join(fields[len(fields)-2:], "."), nil
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("running %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func readAll(paths ...string) ([]string, error) {
	var out []string
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		out = append(out, strings.TrimRight(string(content), "\n"))
	}
	return out, nil
}

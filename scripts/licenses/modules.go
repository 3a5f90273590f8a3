package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"brink/internal/licenses"
)

// program is one of those that brink's binary is or carries.
type program struct {
	name     string
	dir      string // of the module that it is built in
	packages string
	flags    []string // for go list; nil leaves them to GOFLAGS
	cgo      bool
}

// programs are brink and what scripts/build-payload builds, with its tags.
var programs = []program{
	{name: "brink", dir: ".", packages: ".", cgo: true},
	payload("containerd-shim-runc-v2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2", "no_grpc", false),
	payload("bridge", "github.com/containernetworking/plugins/plugins/main/bridge", "", false),
	payload("host-local", "github.com/containernetworking/plugins/plugins/ipam/host-local", "", false),
	payload("portmap", "github.com/containernetworking/plugins/plugins/meta/portmap", "", false),
	payload("runc", "github.com/opencontainers/runc", "seccomp netgo osusergo urfave_cli_no_docs", true),
}

func payload(name, path, tags string, cgo bool) program {
	return program{name: name, dir: "runtime/payload/build", packages: path, flags: []string{"-mod=readonly", "-tags=" + tags}, cgo: cgo}
}

// listFormat is a line a linked package: module, version, the directories of both.
const listFormat = "{{with .Module}}{{.Path}}\t{{if .Replace}}{{.Replace.Version}}{{else}}{{.Version}}{{end}}\t{{.Dir}}{{end}}\t{{.Dir}}"

// addModules adds all modules that are linked into a program.
func (c *collector) addModules(p program, arch string) error {
	args := append([]string{"list", "-deps", "-f", listFormat}, p.flags...)
	cmd := exec.Command("go", append(args, p.packages)...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
	if p.cgo {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	if p.flags != nil {
		cmd.Env = append(cmd.Env, "GOFLAGS=")
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("listing what %s is linked from: %w\n%s", p.name, err, stderr.String())
	}
	return c.addLines(p.name, string(out))
}

// addLines adds what go list printed.
func (c *collector) addLines(program, lines string) error {
	var errs []error
	done := map[string]bool{}
	for line := range strings.Lines(lines) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) != 4 || done[fields[3]] { // two fields: of the standard library
			continue
		}
		done[fields[3]] = true
		errs = append(errs, c.addPackage(program, fields[0], fields[1], fields[2], fields[3]))
	}
	return errors.Join(unique(errs)...)
}

// unique leaves out what was said of another package of the same module.
func unique(errs []error) []error {
	var out []error
	said := map[string]bool{}
	for _, err := range errs {
		if err != nil && !said[err.Error()] {
			said[err.Error()] = true
			out = append(out, err)
		}
	}
	return out
}

// addPackage adds the texts that a package of a module is under.
func (c *collector) addPackage(program, module, version, root, dir string) error {
	files, err := textsBelow(root, dir)
	if err != nil {
		return fmt.Errorf("reading the licences of %s: %w", module, err)
	}
	what := licenses.Component{Name: module, Version: version}
	var texts, kinds []string
	for _, f := range files {
		content, err := os.ReadFile(f.path)
		if err != nil {
			return fmt.Errorf("reading the licences of %s: %w", module, err)
		}
		of := kindsOf(string(content))
		if len(of) == 0 && !f.notice {
			return fmt.Errorf("%s %s: %s is no licence that scripts/licenses knows: read it, and add its kind there if brink may carry it", module, version, f.path)
		}
		kinds = append(kinds, of...)
		texts = append(texts, strings.TrimRight(string(content), "\n"))
	}
	if len(kinds) == 0 {
		return fmt.Errorf("%s %s is linked into %s and has no licence in %s", module, version, program, root)
	}
	c.add(program, what, texts...)
	known := c.components[module+" "+version]
	if known.License != "" {
		kinds = append(kinds, strings.Split(known.License, " AND ")...)
	}
	known.License = expression(kinds)
	return nil
}

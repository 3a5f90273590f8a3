// Command sbom writes a CycloneDX document of a brink binary and of the programs that it
// carries: each program with the Go modules that are linked into it, and the C libraries.
// The same input gives the same bytes.
//
//	sbom -version V -time SECONDS -licenses licenses.json.gz -brink FILE PROGRAM...
//
// Modules come from the build information that Go leaves in each program, by
// cyclonedx-gomod. Licences, and what is no Go module, come from the list that
// scripts/licenses has collected for the same build.
package main

import (
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/CycloneDX/cyclonedx-gomod/pkg/generate/bin"
	"github.com/google/uuid"
	"github.com/rs/zerolog"
)

// options are the flags.
type options struct {
	version, licenses, brink string
	seconds                  int64
}

func main() {
	var o options
	flag.StringVar(&o.version, "version", "", "brink's `VERSION`")
	flag.StringVar(&o.licenses, "licenses", "", "the `FILE` that scripts/licenses has made")
	flag.StringVar(&o.brink, "brink", "", "brink's binary")
	flag.Int64Var(&o.seconds, "time", 0, "when it was built, in `SECONDS` since 1970")
	flag.Parse()
	if err := run(os.Stdout, o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, o options, programs []string) error {
	list, err := readLicenses(o.licenses)
	if err != nil {
		return err
	}
	m := merger{byRef: map[string]*cdx.Component{}}
	if err := m.add(o.brink, bin.WithVersionOverride(o.version)); err != nil {
		return err
	}
	for _, p := range programs {
		if err := m.add(p); err != nil {
			return err
		}
	}
	if err := m.addLicenses(list, o.version); err != nil {
		return err
	}
	return m.write(out, time.Unix(o.seconds, 0).UTC())
}

// merger makes one document of several.
type merger struct {
	main         *cdx.Component
	byRef        map[string]*cdx.Component
	dependencies []cdx.Dependency
}

// add takes what is linked into a program. The first one is what the document is about.
func (m *merger) add(path string, more ...bin.Option) error {
	if _, err := buildinfo.ReadFile(path); err != nil && m.main != nil {
		return m.addForeign(path)
	}
	generator, err := bin.NewGenerator(path, append(more, bin.WithIncludeStdlib(true), bin.WithLogger(zerolog.Nop()))...)
	if err != nil {
		return err
	}
	bom, err := generator.Generate()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	program, name := bom.Metadata.Component, filepath.Base(path)
	program.Properties = bom.Metadata.Properties
	if m.main == nil {
		m.main = program
	} else {
		// Programs of one module have one name otherwise.
		program.BOMRef = "program:" + name
		program.Description = "the program " + name + ", carried in the binary"
		m.byRef[program.BOMRef] = program
	}
	var refs []string
	for _, c := range *bom.Components {
		if _, known := m.byRef[c.BOMRef]; !known {
			m.byRef[c.BOMRef] = &c
		}
		refs = append(refs, c.BOMRef)
	}
	m.dependsOn(program.BOMRef, refs...)
	return nil
}

// addForeign takes a program that is not of Go. What it is made of is in the list of licences.
func (m *merger) addForeign(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name, sum := filepath.Base(path), sha256.Sum256(content)
	m.byRef["program:"+name] = &cdx.Component{
		Type: cdx.ComponentTypeApplication, Name: name, BOMRef: "program:" + name,
		Description: "the program " + name + ", carried in the binary",
		Hashes:      &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
	}
	return nil
}

// isForeign reports whether c was added by addForeign.
func isForeign(c *cdx.Component) bool { return c.Hashes != nil && c.PackageURL == "" }

// dependsOn notes what is linked into a program.
func (m *merger) dependsOn(program string, refs ...string) {
	i := slices.IndexFunc(m.dependencies, func(d cdx.Dependency) bool { return d.Ref == program })
	if i < 0 {
		m.dependencies = append(m.dependencies, cdx.Dependency{Ref: program, Dependencies: &[]string{}})
		i = len(m.dependencies) - 1
	}
	all := append(*m.dependencies[i].Dependencies, refs...)
	slices.Sort(all)
	all = slices.Compact(all)
	m.dependencies[i].Dependencies = &all
}

// licensed is a work in the list of package internal/licenses.
type licensed struct {
	Name, Version, License string
	In                     []string
}

func readLicenses(path string) ([]licensed, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var list struct{ Components []licensed }
	if err := json.NewDecoder(z).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list.Components, nil
}

// addLicenses tells the licence of each component, and adds those that are no Go modules.
// A component without a licence is an error: the list and the programs are not of one build.
func (m *merger) addLicenses(list []licensed, version string) error {
	for _, l := range list {
		found := false
		for _, c := range append(m.components(), m.main) {
			isIt := c.Name == l.Name && c.Version == l.Version || c.Name == "std" && l.Name == "Go standard library"
			if isIt || c == m.main && l.Name == "brink" || c.Name == l.Name && l.Name == "brink" {
				c.Licenses = &cdx.Licenses{{Expression: l.License}}
				found = true
			}
		}
		if !found {
			m.addLibrary(l)
		}
	}
	var errs []error
	for _, c := range m.components() {
		if c.Licenses == nil && !isForeign(c) {
			errs = append(errs, fmt.Errorf("%s %s has no licence in the list", c.Name, c.Version))
		}
	}
	return errors.Join(errs...)
}

func (m *merger) addLibrary(l licensed) {
	c := &cdx.Component{
		Type: cdx.ComponentTypeLibrary, Name: l.Name, Version: l.Version,
		BOMRef:   "library:" + l.Name + "@" + l.Version,
		Licenses: &cdx.Licenses{{Expression: l.License}},
	}
	m.byRef[c.BOMRef] = c
	for _, program := range l.In {
		if program == "brink" {
			m.dependsOn(m.main.BOMRef, c.BOMRef)
		} else if _, carried := m.byRef["program:"+program]; carried {
			m.dependsOn("program:"+program, c.BOMRef)
		}
	}
}

// components are all but the main one, in an order that does not change.
func (m *merger) components() []*cdx.Component {
	var out []*cdx.Component
	for _, c := range m.byRef {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })
	return out
}

func (m *merger) write(out io.Writer, at time.Time) error {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: m.main, Timestamp: at.Format(time.RFC3339)}
	var components []cdx.Component
	for _, c := range m.components() {
		components = append(components, *c)
		if strings.HasPrefix(c.BOMRef, "program:") {
			m.dependsOn(m.main.BOMRef, c.BOMRef)
		}
	}
	slices.SortFunc(m.dependencies, func(a, b cdx.Dependency) int { return cmp.Compare(a.Ref, b.Ref) })
	bom.Components, bom.Dependencies = &components, &m.dependencies
	// A serial number that is the content's: a random one would differ in each build.
	content, err := json.Marshal(bom)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	bom.SerialNumber = uuid.NewHash(sha256.New(), uuid.NameSpaceURL, sum[:], 5).URN()
	return cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

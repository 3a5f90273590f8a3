package main

import (
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// testOptions are of this test's own binary, as brink and as a program that brink
// carries, with a list of licences that names all of it but what is left out.
func testOptions(t *testing.T, leftOut string) (o options, programs []string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Components []licensed }
	add := func(name, version string, in ...string) {
		if name != leftOut {
			list.Components = append(list.Components, licensed{name, version, "MIT", in})
		}
	}
	add("Go standard library", info.GoVersion)
	add(info.Main.Path, "v1")
	add(info.Main.Path, "") // as the generator calls what was built without git
	for _, dep := range info.Deps {
		add(dep.Path, dep.Version)
	}
	add("SQLite", "3.53.4", "brink")
	add("glibc", "2.36", "brink", "nft")

	dir := t.TempDir()
	o = options{version: "v1", licenses: filepath.Join(dir, "list"), brink: self, seconds: 1e9}
	foreign := filepath.Join(dir, "nft")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	json.NewEncoder(z).Encode(list)
	z.Close()
	for path, content := range map[string][]byte{o.licenses: packed.Bytes(), foreign: []byte("\x7fELF of C")} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "runc")
	if err := os.Link(self, program); err != nil {
		if err := os.Symlink(self, program); err != nil {
			t.Fatal(err)
		}
	}
	return o, []string{program, foreign}
}

func TestSBOM(t *testing.T) {
	t.Parallel()
	o, programs := testOptions(t, "")
	var first, again bytes.Buffer
	if err := run(&first, o, programs); err != nil {
		t.Fatal(err)
	}
	if err := run(&again, o, programs); err != nil || again.String() != first.String() {
		t.Errorf("the same input gives another document: %v", err)
	}
	var bom cdx.BOM
	if err := json.Unmarshal(first.Bytes(), &bom); err != nil {
		t.Fatal(err)
	}
	if c := bom.Metadata.Component; c.Version != "v1" || c.Licenses == nil {
		t.Errorf("it is about %+v", c)
	}
	depends := map[string]string{}
	for _, d := range *bom.Dependencies {
		depends[d.Ref] = strings.Join(*d.Dependencies, " ")
	}
	for ref, want := range map[string][]string{
		bom.Metadata.Component.BOMRef: {"program:runc", "program:nft", "library:SQLite@3.53.4", "cyclonedx-gomod", "golang/std@"},
		"program:runc":                {"cyclonedx-gomod"},
		"program:nft":                 {"library:glibc@2.36"},
	} {
		for _, w := range want {
			if !strings.Contains(depends[ref], w) {
				t.Errorf("%s does not depend on %s but on %s", ref, w, depends[ref])
			}
		}
	}
}

func TestEveryModuleHasALicence(t *testing.T) {
	t.Parallel()
	o, programs := testOptions(t, "github.com/google/uuid")
	err := run(&bytes.Buffer{}, o, programs)
	if err == nil || !strings.Contains(err.Error(), "github.com/google/uuid v1.6.0 has no licence in the list") {
		t.Errorf("%v", err)
	}
}

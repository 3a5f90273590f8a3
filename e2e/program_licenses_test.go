package e2e

import (
	"debug/buildinfo"
	"encoding/json"
	"os/exec"
	"slices"
	"testing"

	"brink/internal/licenses"
)

// TestLicenses: `brink version --licenses` prints the licence, with its text, of every
// module that the binary says it was linked from, and of what the payload carries.
func TestLicenses(t *testing.T) {
	t.Parallel()
	info, err := buildinfo.ReadFile(brinkBinary)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(brinkBinary, "version", "--licenses", "-o", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list licenses.List
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	in := map[string][]string{} // programs, by name and version of what is in them
	for _, c := range list.Components {
		in[c.Name+" "+c.Version] = c.In
		hasText := len(c.Texts) > 0 && list.Texts[c.Texts[0]] != ""
		if c.License == "" || !hasText && c.Note == "" {
			t.Errorf("%s has the licence %q and no text", c.Name, c.License)
		}
	}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			dep.Version = dep.Replace.Version
		}
		if key := dep.Path + " " + dep.Version; !slices.Contains(in[key], "brink") {
			t.Errorf("the list has no %s, which is linked", key)
		}
	}
	if len(info.Deps) < 100 {
		t.Errorf("only %d modules are linked: the search is broken", len(info.Deps))
	}
	for program, module := range map[string]string{
		"runc": "github.com/opencontainers/runc", "containerd-shim-runc-v2": "github.com/containerd/containerd/v2",
		"bridge": "github.com/containernetworking/plugins", "portmap": "github.com/containernetworking/plugins",
	} {
		if !slices.ContainsFunc(list.Components, func(c licenses.Component) bool { return c.Name == module && slices.Contains(c.In, program) }) {
			t.Errorf("the list has no %s in %s", module, program)
		}
	}
}

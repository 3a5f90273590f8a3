package cmd

import (
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// notWanted are imports of upstream's main packages that brink does without.
var notWanted = []string{
	"k8s.io/component-base/logs/json/register", // all components share brink's log
}

// TestUpstreamsEffects: what the main packages of the embedded components import for
// its effect is linked. A new version may import more.
func TestUpstreamsEffects(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "brink").Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(out))
	seen := 0
	for _, component := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"} {
		for _, imported := range blankImports(t, "k8s.io/kubernetes/cmd/"+component) {
			seen++
			if !slices.Contains(linked, imported) && !slices.Contains(notWanted, imported) {
				t.Errorf("%s imports %s for its effect: import it where the component is embedded, or add it to notWanted", component, imported)
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d imports seen: the reading is broken", seen)
	}
}

// blankImports are those that a main package and its app name _.
func blankImports(t *testing.T, main string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-e", "-f", "{{.Dir}}", main, main+"/app").Output()
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, dir := range strings.Fields(string(out)) {
		paths, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		for _, path := range paths {
			if strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, "_windows.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range file.Imports {
				if name, err := strconv.Unquote(spec.Path.Value); err == nil && spec.Name != nil && spec.Name.Name == "_" {
					imports = append(imports, name)
				}
			}
		}
	}
	return imports
}

// TestTimeZones: a board without the package tzdata knows them, for CronJobs.
func TestTimeZones(t *testing.T) {
	t.Setenv("ZONEINFO", "/nowhere")
	for _, name := range []string{"Europe/Berlin", "Etc/UTC", "America/Argentina/Ushuaia"} {
		if _, err := time.LoadLocation(name); err != nil {
			t.Error(err)
		}
	}
}

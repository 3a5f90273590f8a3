package host

import (
	"testing"

	"brink/internal/testdocs"
)

// TestDocs: the documentation explains every check.
func TestDocs(t *testing.T) {
	t.Parallel()
	kinds := map[Result]string{Fail: "no start", Warn: "a warning", OK: ""}
	var rows [][]string
	for _, k := range Kinds() {
		rows = append(rows, []string{k.Name, k.Asks, kinds[k.Worst], k.Cure})
	}
	testdocs.Part(t, "docs/troubleshooting.md", "checks", testdocs.Table([]string{"check", "what has to be so", "otherwise", "cure"}, rows))
}

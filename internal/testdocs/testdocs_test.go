package testdocs

import "testing"

func TestSplit(t *testing.T) {
	t.Parallel()
	const page = "# A\n<!-- a: begin, written by x -->\nold\n<!-- a: end -->\nmore\n"
	before, part, after := split(t, "p", page, "a")
	if before != "# A\n<!-- a: begin, written by x -->\n" || part != "old\n" || after != "<!-- a: end -->\nmore\n" {
		t.Errorf("got %q, %q, %q", before, part, after)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	const want = "| a | b |\n|---|---|\n| x\\|y | 1 2 |\n"
	if got := Table([]string{"a", "b"}, [][]string{{"x|y", "1\n2"}}); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFirstDifference(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ got, want, line string }{
		{"a\nb", "a\nc", "page: b\ncode: c"},
		{"a", "a\nc", "page: (its end)\ncode: c"},
		{"a", "a", ""},
	} {
		if line := firstDifference(tt.got, tt.want); line != tt.line {
			t.Errorf("%q, %q: got %q", tt.got, tt.want, line)
		}
	}
}

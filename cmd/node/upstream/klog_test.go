package upstream

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestKlogLines: klog's older calls arrive as text, and keep the level that they had.
func TestKlogLines(t *testing.T) {
	t.Parallel()
	cases := []struct{ line, want string }{
		{"I1124 21:42:00.203111    4711 file.go:9] all is well\n", ""},
		{"W1124 21:42:00.203111    4711 file.go:9] soon [x] gone\n", `level=WARN msg="soon [x] gone"`},
		{"E1124 21:42:00.203111    4711 file.go:9] gone\n", "level=ERROR msg=gone"},
		{"F1124 21:42:00.203111    4711 file.go:9] no storage\n", `level=ERROR msg="no storage"`},
		{"without a header", ""},
		{"", ""},
	}
	for _, c := range cases {
		var out bytes.Buffer
		start := newStartLog()
		klogLines(start, start.wrap(atLeast{slog.LevelWarn, slog.NewTextHandler(&out, nil)}))([]byte(c.line))
		if isFatal := strings.HasPrefix(c.line, "F"); !isFatal {
			if out.Len() > 0 {
				t.Errorf("%q is not held back: %s", c.line, out.String())
			}
			start.Show()
		}
		if got := out.String(); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.line, got, c.want)
		}
	}
}

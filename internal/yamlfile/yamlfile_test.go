package yamlfile

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestMistakesInYAML: each is named at its line, where the library alone names another
// one, or none.
func TestMistakesInYAML(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"a list that is not closed", "a: 1\nb: [x\n", "2: did not find expected ',' or ']'"},
		{"in the first line", "a: [x\n", "1: did not find expected ',' or ']'"},
		{"deep in a file", "a: 1\nb:\n  c:\n    d: [x\ne: 2\n", "4: did not find expected ',' or ']'"},
		{"wrongly indented", "# of the shop\na:\n  b: 1\n  c: 2\n d: 3\n", "5: did not find expected key"},
		{"wrongly indented list", "a:\n  - x\n  - y\n - z\n", "4: did not find expected key"},
		{"less indented list", "a:\n  b:\n    - x\n   - y\n", "4: did not find expected key"},
		{"no colon", "a: 1\nbcd\ne: 2\n", "2: could not find expected ':'"},
		{"two colons", "a: 1\nb: c: d\n", "2: mapping values are not allowed in this context"},
		{"a tab", "a: 1\nb:\n\tc: 1\n", "3: found character that cannot start any token"},
		{"an open quote", "a: 1\nb: \"x\nc: 2\nd: 3\n", "2: found unexpected end of stream"},
		{"an unknown alias", "a: 1\nb: *x\nc: 2\n", "2: unknown anchor 'x' referenced"},
		{"a star that is a text", "a: 1\nb: *.x\n", "2: did not find expected alphabetic or numeric character"},
		{"a control character", "a: 1\nb: \x01\n", "2: control characters are not allowed"},
		{"not UTF-8", "a: 1\nb: \xff\n", "2: invalid leading UTF-8 octet"},
		{"without a line's end", "a: 1\nb: [x", "2: did not find expected ',' or ']'"},
		{"lines of Windows", "a: 1\r\nb: [x\r\n", "2: did not find expected ',' or ']'"},
		{"after a list of several lines", "a: [x,\n  y]\nb: [\n", "3: did not find expected node content"},
		{"a second document", "a: 1\n---\nb: 2\n", "2: a second document starts here: this file has only one"},
		{"a mistake in a second document", "a: 1\n---\nb: [2\n", "3: did not find expected ',' or ']'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := NewReader("f")
			if root := r.Document([]byte(c.text)); root != nil {
				t.Errorf("it is taken for %v", root)
			}
			if err := r.Err(); err == nil || err.Error() != "f:"+c.want {
				t.Errorf("got %v, want f:%s", err, c.want)
			}
		})
	}
}

func TestEmptyFiles(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# nothing\n", "---\n", "---\n# nothing\n", "~\n"} {
		r := NewReader("f")
		if root := r.Document([]byte(text)); root != nil || r.Err() != nil {
			t.Errorf("%q: got %v, %v", text, root, r.Err())
		}
	}
}

// TestOpenQuoteInALongFile is seen at its end only, and must not cost much.
func TestOpenQuoteInALongFile(t *testing.T) {
	t.Parallel()
	text := "a: \"x\n" + strings.Repeat("b: 1\n", 5_000)
	r := NewReader("f")
	start := time.Now()
	r.Document([]byte(text))
	if err := r.Err(); err == nil || time.Since(start) > time.Minute {
		t.Errorf("got %v after %s", err, time.Since(start))
	}
}

// pairs renders what Pairs finds.
func pairs(text string) string {
	r := NewReader("f")
	root := r.Document([]byte(text))
	if root == nil {
		return r.Err().Error()
	}
	var out []string
	name := func(key string) (string, bool) { return strings.TrimSuffix(key, "+"), key != "other" }
	r.Pairs(root, "this", name, func(key, value *yaml.Node) { out = append(out, key.Value+"="+value.Value) })
	if err := r.Err(); err != nil {
		out = append(out, err.Error())
	}
	return strings.Join(out, " ")
}

func TestPairs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a: 1\nb: 2\n":                        "a=1 b=2",
		"a: &x 1\nb: *x\n":                    "a=1 b=1",
		"a: 1\na: 2\n":                        `a=1 f:2: key "a" is given twice in this, first in line 1`,
		"a: 1\n\na+: 2\n":                     `a=1 f:3: key "a" is given twice in this, first in line 1`,
		"other: 1\nother: 2\na: 1\n":          "a=1",
		"a: 1\n<<: {a: 2, b: 3, other: 4}\n":  "a=1 b=3",
		"<<: [{a: 1}, {a: 2, b: 3}]\nc: 4\n":  "c=4 a=1 b=3",
		"<<: {<<: {a: 1}, b: 2}\n":            "b=2 a=1",
		"'<<': 1\n":                           "<<=1",
		"<<: 1\n":                             "f:1: << in this must be a mapping of keys to values, or a list of them",
		"- a\n":                               "f:1: this must be a mapping of keys to values",
		"<<: &x {<<: *x}\n":                   "f:1: << in this leads back to what it stands in",
		"# first\n\na: 1\nb: 2\n# last\na: 3": `a=1 b=2 f:6: key "a" is given twice in this, first in line 3`,
	} {
		if got := pairs(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestUnknownKeys(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"endpoint: 1\nrewrite: 2\n": "",
		"endpoints: 1\n":            `f:1: unknown key "endpoints" in a mirror: did you mean "endpoint"?`,
		"\nEndpoint: 1\n":           `f:2: unknown key "Endpoint" in a mirror: did you mean "endpoint"?`,
		"url: 1\n":                  `f:1: unknown key "url" in a mirror: the keys there are endpoint, rewrite`,
	} {
		r := NewReader("f")
		r.Mapping(r.Document([]byte(text)), "a mirror", Keys{"endpoint": func(*yaml.Node) {}, "rewrite": func(*yaml.Node) {}})
		got := ""
		if err := r.Err(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	known := []string{"node-name", "node-label", "debug"}
	for name, want := range map[string]string{"node-nmae": "node-name", "--debug": "debug", "node_label": "node-label", "something-else": ""} {
		if got := Suggest(name, known); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

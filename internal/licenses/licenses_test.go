package licenses

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

func packed(t *testing.T, list List) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if err := errors.Join(json.NewEncoder(z).Encode(list), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWrite(t *testing.T) {
	t.Parallel()
	list, err := read(fstest.MapFS{File: {Data: packed(t, List{
		Components: []Component{
			{Name: "example.org/a", Version: "v1.0.0", License: "MIT", In: []string{"brink", "runc"}, Texts: []int{0}},
			{Name: "example.org/b", Version: "v2.0.0", License: "MIT AND ISC", In: []string{"brink"}, Texts: []int{0, 1}},
			{Name: "lib", License: "blessing", In: []string{"brink"}, Note: "has no licence."},
		},
		Texts: []string{"first text", "second text"},
	})}})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := list.Write(&out); err != nil {
		t.Fatal(err)
	}
	rule := strings.Repeat("=", 80)
	want := "NAME           VERSION  LICENSE      IN\n" +
		"example.org/a  v1.0.0   MIT          brink,runc\n" +
		"example.org/b  v2.0.0   MIT AND ISC  brink\n" +
		"lib                     blessing     brink\n" +
		"\nlib: has no licence.\n" +
		"\n" + rule + "\nexample.org/a v1.0.0\nexample.org/b v2.0.0\n\nfirst text\n" +
		"\n" + rule + "\nexample.org/b v2.0.0\n\nsecond text\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestReadWithoutAList(t *testing.T) {
	t.Parallel()
	if _, err := read(fstest.MapFS{}); !errors.Is(err, ErrNotBuiltIn) {
		t.Errorf("got %v, want %v", err, ErrNotBuiltIn)
	}
	if _, err := read(fstest.MapFS{File: {Data: []byte("no gzip")}}); err == nil || errors.Is(err, ErrNotBuiltIn) {
		t.Errorf("a damaged list gives %v", err)
	}
}

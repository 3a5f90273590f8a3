package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"brink/internal/licenses"
)

const (
	mit    = "Permission is hereby granted, free of\n  charge, to any person"
	apache = "Apache License\n   Version 2.0, January 2004\n"
	bsd2   = "Redistribution and use in source and binary forms, with or without"
	bsd3   = bsd2 + "\n * Neither the name of the copyright holder"
)

// module makes a directory with these files and returns the line of go list for the
// package in dir.
func module(t *testing.T, name, dir string, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join([]string{name, "v1.0.0", root, filepath.Join(root, dir)}, "\t") + "\n"
}

func TestCollect(t *testing.T) {
	t.Parallel()
	a := module(t, "a", "pkg/b", map[string]string{
		"LICENSE": apache, "NOTICE": "by A", "LICENSE.docs": "CC", "license.go": "package a",
		"pkg/LICENSE.txt": bsd3, "pkg/b/b.go": "package b", "other/LICENSE": mit,
	})
	b := module(t, "b", ".", map[string]string{"COPYING": apache + "\n\n"})
	c := module(t, "c", ".", map[string]string{"LICENCE.md": bsd2, "PATENTS": "a grant"})
	var got collector
	for program, lines := range map[string]string{"brink": a + b + "\t/usr/lib/go/src/fmt\n", "runc": b + c} {
		if err := got.addLines(program, lines); err != nil {
			t.Fatal(err)
		}
	}
	list := got.list()
	for i := range list.Components {
		if len(list.Components[i].In) == 2 {
			list.Components[i].In = []string{"both"} // the map above has no order
		}
	}
	want := licenses.List{
		Components: []licenses.Component{
			{Name: "a", Version: "v1.0.0", License: "Apache-2.0 AND BSD-3-Clause", In: []string{"brink"}, Texts: []int{0, 1, 2}},
			{Name: "b", Version: "v1.0.0", License: "Apache-2.0", In: []string{"both"}, Texts: []int{0}},
			{Name: "c", Version: "v1.0.0", License: "BSD-2-Clause", In: []string{"runc"}, Texts: []int{3, 4}},
		},
		Texts: []string{strings.TrimSpace(apache), bsd3, "by A", bsd2, "a grant"},
	}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got\n%+v\nwant\n%+v", list, want)
	}
}

// TestRefused: a module that nobody may give away stops the build.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		files map[string]string
		want  string
	}{
		{map[string]string{"README": "free"}, "m v1.0.0 is linked into brink and has no licence"},
		{map[string]string{"NOTICE": "by M"}, "m v1.0.0 is linked into brink and has no licence"},
		{map[string]string{"LICENSE": "GNU LESSER GENERAL PUBLIC LICENSE"}, "LICENSE is no licence that scripts/licenses knows"},
	} {
		var c collector
		err := c.addLines("brink", module(t, "m", ".", tt.files))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want %q", tt.files, err, tt.want)
		}
		if len(c.components) != 0 {
			t.Errorf("%v: added all the same", tt.files)
		}
	}
}

func TestKindsOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		mit: "MIT", apache: "Apache-2.0", bsd2: "BSD-2-Clause", bsd3: "BSD-3-Clause",
		apache + mit:                    "Apache-2.0 AND MIT",
		"All rights reserved":           "",
		"This is like the Apache, more": "",
	} {
		if got := expression(kindsOf(text)); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestPack(t *testing.T) {
	t.Parallel()
	want := licenses.List{Components: []licenses.Component{{Name: "a", License: "MIT", In: []string{"brink"}}}, Texts: []string{mit}}
	content, err := pack(want)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	var got licenses.List
	if err := json.NewDecoder(z).Decode(&got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	again, err := pack(want)
	if err != nil || !bytes.Equal(again, content) {
		t.Errorf("the same list gives other bytes (%v)", err)
	}
}

// Command image makes the image of docs/examples/hello.yaml from the host's
// busybox: `go run ./docs/examples/image FILE` writes it as an archive, where
// `brink images import` or DATA-DIR/agent/images takes it from.
package main

import (
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"brink/e2e/image"
)

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: image FILE"))
	}
	box, err := image.BusyboxFiles()
	fail(err)
	fail(image.Write(os.Args[1], image.Image{
		Name:   "example.brink/busybox:1",
		Config: v1.Config{Cmd: []string{"sh"}},
		Layers: [][]image.File{box},
	}))
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

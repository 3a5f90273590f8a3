package main

import "brink/e2e/image"

const imageName = "bench.local/busybox:1"

// writeImage makes the archive of an image that holds busybox and nothing else.
func writeImage(path string) error {
	program, err := image.BusyboxProgram()
	if err != nil {
		return err
	}
	return image.Write(path, image.Image{Name: imageName, Layers: [][]image.File{{program}}})
}

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"brink/e2e/image"
)

// The images every node of these tests finds in its pre-start directory.
const (
	busybox1   = "e2e.local/busybox:1"
	busybox2   = "e2e.local/busybox:2"
	entrypoint = "e2e.local/entrypoint:1"
	server1    = "e2e.local/server:1"
	server2    = "e2e.local/server:2"
)

// writeImages makes all test images and writes them as one docker archive.
func writeImages(path, serverBinary string) error {
	box, err := image.BusyboxFiles()
	if err != nil {
		return err
	}
	server, err := os.ReadFile(serverBinary)
	if err != nil {
		return err
	}
	program := []image.File{{Name: "server", Mode: 0o755, Content: server}}
	shell := v1.Config{Cmd: []string{"sh"}}
	echo := v1.Config{Entrypoint: []string{"/bin/echo", "image-entrypoint"}, Cmd: []string{"image-cmd"}}
	serve := v1.Config{Entrypoint: []string{"/server"}}
	return image.Write(path,
		image.Image{Name: busybox1, Config: shell, Layers: [][]image.File{box, versionFile("1")}},
		image.Image{Name: busybox2, Config: shell, Layers: [][]image.File{box, versionFile("2")}},
		image.Image{Name: entrypoint, Config: echo, Layers: [][]image.File{box}},
		image.Image{Name: server1, Config: serve, Layers: [][]image.File{box, program, versionFile("1")}},
		image.Image{Name: server2, Config: serve, Layers: [][]image.File{box, program, versionFile("2")}},
	)
}

func versionFile(version string) []image.File {
	return []image.File{{Name: "version", Mode: 0o644, Content: []byte(version + "\n")}}
}

// buildServer compiles testimage into dir.
func buildServer(dir string) (string, error) {
	out := filepath.Join(dir, "testimage")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./testimage")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building testimage: %w: %s", err, text)
	}
	return out, nil
}

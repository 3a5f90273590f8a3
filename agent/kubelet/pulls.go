package kubelet

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/componentargs"
	"brink/internal/layout"
)

// Image is one that is on the node.
type Image struct {
	// Name is the whole one, by which the runtime knows it.
	Name string
	// ID is what the runtime calls it by: the digest of its configuration.
	ID string
	// Imported images were brought by the node's owner.
	Imported bool
}

// RootDir is where the kubelet keeps its files, after flags.
func RootDir(args []string, usual string) string {
	for _, arg := range args {
		if _, value, ok := strings.Cut(arg, "="); ok && componentargs.Name(arg) == "root-dir" {
			usual = value
		}
	}
	return usual
}

// ForgetPulls drops what the kubelet remembers of pulls where that would keep pods
// from an image that the node's owner has brought. It is called before the kubelet
// starts, which reads its records once. images are those that are there, asked for
// only where there are records; whole names an image as the runtime does.
//
// Since 1.35 the kubelet notes that it begins to pull an image, and by whose
// credentials one was pulled. A note that a power cut left makes it take an image
// for pulled by an unknown, which nobody may use before another pull, although an
// archive brought it meanwhile: for good, on a node without a network. Its policy
// stays what it is upstream, NeverVerifyPreloadedImages. Whether an image is
// preloaded it knows by the notes alone, and these are put right. NeverVerify would
// do too, and give every pod the images that others pulled by their secrets.
//
// The note of a pull whose image is not there says nothing: the pull ended with
// containerd, which is in this process. Neither does one that cannot be read: it is
// not synced by itself, only with the layers of the image that came after it.
func ForgetPulls(rootDir string, whole func(string) string, images func() ([]Image, error)) error {
	intents := filepath.Join(rootDir, layout.ImageManager, "pulling")
	pulled := filepath.Join(rootDir, layout.ImageManager, "pulled")
	if isEmpty(intents) && isEmpty(pulled) {
		return nil
	}
	there, err := images()
	if err != nil {
		return err
	}
	byPull := map[string]bool{}
	for _, i := range there {
		if !i.Imported {
			byPull[i.Name] = true
			continue
		}
		err = errors.Join(err, remove(filepath.Join(pulled, recordName(i.ID))))
	}
	err = errors.Join(err, forgetIntents(intents, func(image string) bool { return byPull[whole(image)] }))
	if err != nil {
		return fmt.Errorf("dropping the kubelet's records of pulls: %w", err)
	}
	return nil
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0 || errors.Is(err, fs.ErrNotExist)
}

// recordName is the kubelet's name of a file about an image, pullmanager's
// cacheFilename.
func recordName(image string) string {
	return fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(image)))
}

func forgetIntents(dir string, keep func(image string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var intent struct{ Image string }
		text, err := os.ReadFile(path)
		if err == nil && json.Unmarshal(text, &intent) == nil && keep(intent.Image) {
			continue
		}
		errs = append(errs, remove(path))
	}
	return errors.Join(errs...)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

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

// Image is an image that is on the node.
type Image struct {
	// Name is the complete name, by which the runtime knows the image.
	Name string
	// ID is the runtime's identifier: the digest of the image's configuration.
	ID string
	// Imported is whether the node's owner has imported the image.
	Imported bool
}

// RootDir returns the directory of the kubelet's files: usual, unless args set another.
func RootDir(args []string, usual string) string {
	for _, arg := range args {
		if _, value, ok := strings.Cut(arg, "="); ok && componentargs.Name(arg) == "root-dir" {
			usual = value
		}
	}
	return usual
}

// ForgetPulls drops the kubelet's records of pulls where they would keep pods from an
// image that the node's owner has imported. It must be called before the kubelet starts,
// which reads its records once. images returns the images on the node and is called only
// if there are records. whole completes the name of an image as the runtime does.
//
// Since 1.35 the kubelet records that it begins to pull an image, and with whose
// credentials an image was pulled. A record that a power cut left makes the kubelet
// believe that somebody unknown pulled the image, which then nobody may use before another
// pull, although an archive has brought it since: for good, on a node without a network.
// The kubelet's policy stays upstream's NeverVerifyPreloadedImages. Which images are
// preloaded it knows by the records alone, which are corrected here. The policy
// NeverVerify would help too, but give every pod the images that others pulled with their
// secrets.
//
// The record of a pull whose image is missing means nothing, whether it was begun or
// done: a pull ended with containerd, which is in this process, and an archive may bring
// the image in a moment. Nor does one that cannot be read: it is not
// synced by itself, only with the layers of the image that came after it.
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
	byPull, keep := map[string]bool{}, map[string]bool{}
	for _, i := range there {
		if !i.Imported {
			byPull[i.Name], keep[recordName(i.ID)] = true, true
		}
	}
	for _, i := range there {
		if i.Imported {
			delete(keep, recordName(i.ID))
		}
	}
	err = forgetOthers(pulled, keep)
	err = errors.Join(err, forgetIntents(intents, func(image string) bool { return byPull[whole(image)] }))
	if err != nil {
		return fmt.Errorf("dropping the kubelet's records of pulls: %w", err)
	}
	return nil
}

// ForgetImported drops the records of pulls of images that were imported since the kubelet
// started. It leaves alone that it is pulling others. The kubelet holds records that it
// has read in memory: one that it needed before the import keeps pods with other secrets
// from the image until the next start.
func ForgetImported(rootDir string, _ func(string) string, images func() ([]Image, error)) error {
	pulled := filepath.Join(rootDir, layout.ImageManager, "pulled")
	if isEmpty(pulled) {
		return nil
	}
	there, err := images()
	for _, i := range there {
		if i.Imported {
			err = errors.Join(err, remove(filepath.Join(pulled, recordName(i.ID))))
		}
	}
	if err != nil {
		return fmt.Errorf("dropping the kubelet's records of pulls: %w", err)
	}
	return nil
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0 || errors.Is(err, fs.ErrNotExist)
}

// recordName returns the kubelet's file name for an image, as pullmanager's cacheFilename
// does.
func recordName(image string) string {
	return fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(image)))
}

// forgetOthers removes the files of dir that are not in keep.
func forgetOthers(dir string, keep map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !keep[e.Name()] {
			errs = append(errs, remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
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

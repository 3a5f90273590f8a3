package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"brink/internal/atomicfile"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// archiveSuffixes are those of OCI and docker archives that containerd reads;
// compression is recognised by content.
var archiveSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"}

// Archives imports image archives into containerd, so that a node without a
// network has images.
type Archives struct {
	// Socket is containerd's.
	Socket string
	// Root is containerd's root directory, see Config.
	Root string
}

// Image is one imported image.
type Image struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Import reads one archive and returns the images in it, ready to run.
func (a Archives) Import(ctx context.Context, path string) ([]Image, error) {
	client, err := containerd.New(a.Socket, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	defer client.Close()
	return a.importFile(namespaces.WithNamespace(ctx, criNamespace), client, path)
}

func (a Archives) importFile(ctx context.Context, client *containerd.Client, path string) ([]Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := compression.DecompressStream(f)
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", path, err)
	}
	defer content.Close()
	imported, err := client.Import(ctx, content, containerd.WithImageLabels(map[string]string{"io.cri-containerd.image": "managed"}))
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", path, err)
	}
	if len(imported) == 0 {
		return nil, fmt.Errorf("importing %s: it holds no image with a name; save it with one (name:tag)", path)
	}
	snapshotter := chooseSnapshotter(a.Root)
	var out []Image
	for _, i := range imported {
		if err := unpackSynced(ctx, containerd.NewImage(client, i), snapshotter); err != nil {
			return out, fmt.Errorf("unpacking %s from %s: %w", i.Name, path, err)
		}
		out = append(out, Image{Name: i.Name, Digest: i.Target.Digest.String()})
	}
	return out, nil
}

// stamp is what tells that an archive was imported before.
type stamp struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Images   []Image   `json:"images"`
}

// ImportDir imports the archives in dir that are new or changed since the last
// time, by the record beside containerd's root: archives are large, and reading
// them at each start would cost minutes on a board. A missing directory is an
// empty one. A damaged archive is logged and passed over: the node is worth
// more than one image.
func (a Archives) ImportDir(ctx context.Context, dir string) error {
	paths, err := archivesIn(dir)
	if err != nil || len(paths) == 0 {
		return err
	}
	client, err := containerd.New(a.Socket, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		return fmt.Errorf("connecting to containerd: %w", err)
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	record := filepath.Join(filepath.Dir(a.Root), "imported-images.json")
	known := readStamps(record)
	current := map[string]stamp{}
	for _, path := range paths {
		s, err := a.importIfNew(ctx, client, path, known[path])
		if err != nil {
			slog.Error("image archive not imported", "component", "images", "archive", path, "error", err)
			continue
		}
		current[path] = s
	}
	return writeStamps(record, known, current)
}

func (a Archives) importIfNew(ctx context.Context, client *containerd.Client, path string, last stamp) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	now := stamp{Size: info.Size(), Modified: info.ModTime().UTC(), Images: last.Images}
	if last.Size == now.Size && last.Modified.Equal(now.Modified) && present(ctx, client, last.Images) {
		return now, nil
	}
	now.Images, err = a.importFile(ctx, client, path)
	if err != nil {
		return stamp{}, err
	}
	slog.Info("image archive imported", "component", "images", "archive", path, "images", names(now.Images))
	return now, nil
}

// present tells whether all images are still there: garbage collection may
// have taken one.
func present(ctx context.Context, client *containerd.Client, images []Image) bool {
	for _, i := range images {
		if _, err := client.GetImage(ctx, i.Name); err != nil {
			return false
		}
	}
	return len(images) > 0
}

func names(images []Image) string {
	var out []string
	for _, i := range images {
		out = append(out, i.Name)
	}
	return strings.Join(out, " ")
}

// archivesIn lists archive files, sorted; other files are not archives.
func archivesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		for _, suffix := range archiveSuffixes {
			if strings.HasSuffix(e.Name(), suffix) && !e.IsDir() {
				out = append(out, filepath.Join(dir, e.Name()))
				break
			}
		}
	}
	sort.Strings(out)
	return out, nil
}

// readStamps returns what is known; without a readable record everything is
// new, which costs time and nothing else.
func readStamps(path string) map[string]stamp {
	known := map[string]stamp{}
	if text, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(text, &known)
	}
	return known
}

func writeStamps(path string, known, current map[string]stamp) error {
	before, err := json.Marshal(known)
	if err != nil {
		return err
	}
	after, err := json.Marshal(current)
	if err != nil {
		return err
	}
	if string(before) == string(after) {
		return nil
	}
	return atomicfile.Write(path, after, 0o600)
}

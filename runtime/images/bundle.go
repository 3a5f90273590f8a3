package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"brink/internal/removetree"

	"github.com/containerd/containerd/v2/core/content"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bundle is a file of images for nodes without a network: an OCI layout in a tar, in which
// each part is there once, as the registry has it. It is made on any machine with a
// network, by nobody in particular, and needs no containerd.
//
// What was fetched lies in a directory beside the file until that is written, so a bundle
// that was cut short goes on where it stopped.
type Bundle struct {
	// Out is the file to write.
	Out string
	// Images are names as pods give them.
	Images []string
	// Platforms are those of the nodes, such as linux/arm64.
	Platforms []string
	// From are earlier bundles. What is in them is left out.
	From []string
	// Registries are the mirrors and credentials to use.
	Registries Registries
	// Report is told what is going on.
	Report func(text string)
}

// Bundled is what a bundle has come to.
type Bundled struct {
	Images []Image
	// Size is that of the file, Shared how many bytes of its images earlier bundles have.
	Size, Shared int64
}

// part is an image in a bundle, and all blobs that belong to it.
type part struct {
	name   string
	target ocispec.Descriptor
	blobs  []ocispec.Descriptor
}

// partSuffix is that of the directory in which a bundle is prepared, partMark a file in it
// by which it is known.
const partSuffix, partMark = ".part", "brink-bundle"

// Write fetches the images and writes the file.
func (b Bundle) Write(ctx context.Context) (Bundled, error) {
	names, err := wholeNames(b.Images)
	if err != nil {
		return Bundled{}, err
	}
	known, err := readBundles(ctx, b.From)
	if err != nil {
		return Bundled{}, err
	}
	dir := b.Out + partSuffix
	release, err := claimPart(dir)
	if err != nil {
		return Bundled{}, err
	}
	defer release()
	store, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		return Bundled{}, fmt.Errorf("preparing %s: %w", dir, err)
	}
	f, err := newFetcher(ctx, b, store, filepath.Join(dir, "hosts"))
	if err != nil {
		return Bundled{}, err
	}
	parts, err := f.manifests(ctx, names)
	if err != nil {
		return Bundled{}, err
	}
	w := newBundleWriter(parts, known)
	if err := errors.Join(needDisk(filepath.Dir(b.Out), f.missing(ctx, w.blobs)+w.size)); err != nil {
		return Bundled{}, err
	}
	if err := f.blobs(ctx, w.blobs); err != nil {
		return Bundled{}, err
	}
	b.Report("writing " + b.Out)
	done, err := w.write(ctx, store, b.Out)
	if err != nil {
		return Bundled{}, err
	}
	return done, removePart(dir)
}

// claimPart makes the directory beside the file for this process alone, or takes the one
// that an earlier run has left.
func claimPart(dir string) (release func(), err error) {
	if err := os.Mkdir(dir, 0o700); err == nil {
		err = os.WriteFile(filepath.Join(dir, partMark), nil, 0o600)
		if err != nil {
			return nil, err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return nil, err
	} else if err := isOwnPart(dir); err != nil {
		return nil, err
	}
	mark, err := os.OpenFile(filepath.Join(dir, partMark), os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s is in the way: it is not of a bundle that was cut short", dir)
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(mark.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		mark.Close()
		return nil, fmt.Errorf("%s is in use: another process is writing the same bundle", dir)
	}
	return func() { mark.Close() }, nil
}

// isOwnPart returns an error unless dir is a directory that only this user can have filled.
// In that of another user links would lead this process's writes elsewhere, and what lies
// there would come into the bundle.
func isOwnPart(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is in the way: it is not a directory that is yours alone (mode 0700): look who made it, and remove it", dir)
	}
	for _, name := range []string{"content", "hosts"} {
		sub := filepath.Join(dir, name)
		if info, err := os.Lstat(sub); err == nil && !info.IsDir() {
			return fmt.Errorf("%s is in the way: it is not a directory", sub)
		}
	}
	return nil
}

// removePart removes what claimPart and a fetcher have made, and nothing else.
func removePart(dir string) error {
	err := errors.Join(
		removetree.All(filepath.Join(dir, "content")),
		removetree.All(filepath.Join(dir, "hosts")),
		os.Remove(filepath.Join(dir, partMark)),
		os.Remove(dir),
	)
	if err != nil {
		return fmt.Errorf("the bundle is written; clearing up: %w", err)
	}
	return nil
}

// needDisk returns an error if a disk cannot take so many bytes.
func needDisk(dir string, bytes int64) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	if free := int64(s.Bavail) * int64(s.Bsize); bytes > free {
		return fmt.Errorf("the bundle needs %s in %s while it is made, and %s are free", inBytes(bytes), dir, inBytes(free))
	}
	return nil
}

// fetcher gets content from registries.
type fetcher struct {
	resolver  remotes.Resolver
	store     content.Store
	platforms []ocispec.Platform
	report    func(string)
	source    map[digest.Digest]string // the image by whose name a blob is fetched
}

// manifests fetches all of each image but its layers: what is wrong with a name is known
// before the long part begins.
func (f *fetcher) manifests(ctx context.Context, names []string) ([]part, error) {
	var parts []part
	var errs []string
	for n, name := range names {
		f.report(fmt.Sprintf("%s (%d of %d)", name, n+1, len(names)))
		p, err := f.manifest(ctx, name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			errs = append(errs, fmt.Sprintf("%s: %v", name, err))
			continue
		}
		parts = append(parts, p)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%d of %d images cannot be had: %s", len(errs), len(names), strings.Join(errs, "; "))
	}
	return parts, nil
}

func (f *fetcher) manifest(ctx context.Context, name string) (part, error) {
	resolved, target, err := f.resolver.Resolve(ctx, name)
	if err != nil {
		return part{}, err
	}
	from, err := f.resolver.Fetcher(ctx, resolved)
	if err != nil {
		return part{}, err
	}
	p := part{name: name, target: target}
	for _, platform := range f.platforms {
		// Where one manifest is for several platforms, each gets the best of its own.
		only := platforms.Only(platform)
		found := false
		fetch := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			f.source[desc.Digest] = resolved
			if !slices.ContainsFunc(p.blobs, func(b ocispec.Descriptor) bool { return b.Digest == desc.Digest }) {
				p.blobs = append(p.blobs, desc)
			}
			if coreimages.IsLayerType(desc.MediaType) {
				return nil, nil
			}
			if err := remotes.Fetch(ctx, f.store, from, desc); err != nil && !errdefs.IsAlreadyExists(err) {
				return nil, err
			}
			found = found || coreimages.IsManifestType(desc.MediaType)
			return coreimages.Children(ctx, f.store, desc)
		}
		walk := coreimages.LimitManifests(coreimages.FilterPlatforms(fetchFunc(fetch), only), only, 1)
		err := coreimages.Walk(ctx, walk, target)
		if err == nil && found {
			err = f.isFor(ctx, target, only)
		}
		if errdefs.IsNotFound(err) && ctx.Err() == nil || err == nil && !found {
			err = fmt.Errorf("it is not for %s", platforms.Format(platform))
		}
		if err != nil {
			return part{}, err
		}
	}
	return p, nil
}

type fetchFunc = coreimages.HandlerFunc

// isFor returns an error for an image of one platform that is for another.
func (f *fetcher) isFor(ctx context.Context, target ocispec.Descriptor, only platforms.MatchComparer) error {
	if coreimages.IsIndexType(target.MediaType) {
		return nil
	}
	found, err := imagePlatforms(ctx, f.store, target)
	for _, p := range found {
		if p.OS != "" && p.Architecture != "" && !only.Match(p) {
			return fmt.Errorf("it is for %s alone", platforms.Format(p))
		}
	}
	return err
}

// missing returns how many bytes of blobs are still to be fetched.
func (f *fetcher) missing(ctx context.Context, blobs []ocispec.Descriptor) int64 {
	total := int64(0)
	for _, b := range blobs {
		if _, err := f.store.Info(ctx, b.Digest); err != nil {
			total += b.Size
		}
	}
	return total
}

// fetchTries is how often a blob is tried again without having got any further.
const fetchTries = 5

// blobs fetches what is not there yet, each blob from where it stopped.
func (f *fetcher) blobs(ctx context.Context, all []ocispec.Descriptor) error {
	total := int64(0)
	for _, b := range all {
		total += b.Size
	}
	done := int64(0)
	for _, b := range all {
		before := done
		err := f.blob(ctx, b, func(offset int64) {
			f.report(fmt.Sprintf("fetching, %d %% of %s", (before+offset)*100/max(1, total), inBytes(total)))
		})
		if err != nil {
			return fmt.Errorf("fetching a part of %s: %w; what was fetched is kept, run this again to go on", f.source[b.Digest], err)
		}
		done += b.Size
	}
	return nil
}

func (f *fetcher) blob(ctx context.Context, b ocispec.Descriptor, report func(offset int64)) error {
	last := int64(-1)
	for tries := 0; ; tries++ {
		from, err := f.resolver.Fetcher(ctx, f.source[b.Digest])
		if err == nil {
			err = remotes.Fetch(ctx, watchedStore{f.store, report}, from, b)
		}
		if err == nil || errdefs.IsAlreadyExists(err) {
			return nil
		}
		offset := int64(0)
		if s, err := f.store.Status(ctx, remotes.MakeRefKey(ctx, b)); err == nil {
			offset = s.Offset
		}
		if errdefs.IsFailedPrecondition(err) { // a wrong digest: what a power cut left cannot be continued
			_ = f.store.Abort(ctx, remotes.MakeRefKey(ctx, b))
		}
		if offset != last {
			last, tries = offset, 0
		}
		if ctx.Err() != nil || tries == fetchTries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(tries) * time.Second):
		}
	}
}

// watchedStore reports how far each blob is.
type watchedStore struct {
	content.Ingester
	report func(offset int64)
}

func (s watchedStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Ingester.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &watchedWriter{Writer: w, report: s.report}, nil
}

type watchedWriter struct {
	content.Writer
	report func(offset int64)
	at     time.Time
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if time.Since(w.at) > 200*time.Millisecond {
		w.at = time.Now()
		if s, err := w.Status(); err == nil {
			w.report(s.Offset)
		}
	}
	return n, err
}

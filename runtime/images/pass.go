package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"brink/internal/lifecycle"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// pass takes files of a directory.
type pass struct {
	*Directory
	ctx         context.Context
	verify      bool // also look whether images of unchanged files are there
	client      *containerd.Client
	snapshotter func() string // asked for once, when there is something to import
	brought     bool          // archives have brought images
}

// takeArchives takes what is new, and releases what is gone. With verify it also looks
// whether the images of what is not new are still there.
func (d *Directory) takeArchives(ctx context.Context, there entries, verify bool) {
	p := &pass{Directory: d, ctx: ctx, verify: verify}
	todo := p.todo(there, false)
	if len(todo) > 0 || len(d.removed(there)) > 0 {
		p.with(todo, func() {
			p.releaseRemoved(there)
			p.takeAll(todo, p.takeArchive)
		})
	}
	d.setWarnings(there)
	if p.brought && d.imported != nil {
		d.imported(ctx)
	}
}

// todo returns the archives, or the lists, that have to be looked into.
func (p *pass) todo(there entries, lists bool) []found {
	var out []found
	for _, f := range there.files {
		if f.list == lists && (p.verify && p.isDue(f) || p.isNew(f)) {
			out = append(out, f)
		}
	}
	return out
}

// with calls do while there is a connection to containerd. Without one all files fail.
func (p *pass) with(files []found, do func()) {
	err := p.connect()
	if p.client != nil {
		defer p.client.Close()
	}
	if err == nil {
		do()
		lifecycle.Progress(p.ctx, "")
		return
	}
	for _, f := range files {
		if p.ctx.Err() == nil {
			p.fail(p.ctx, f, err)
		}
	}
}

// connect also drops what the imports of an earlier run have left.
func (p *pass) connect() (err error) {
	if p.client, err = p.store.connect(); err != nil {
		return err
	}
	p.ctx = namespaces.WithNamespace(p.ctx, Namespace)
	p.snapshotter = sync.OnceValue(func() string { return Snapshotter(p.ctx, p.store.Layout) })
	if !p.cleared {
		err = dropImports(p.ctx, p.client)
		p.cleared = err == nil
	}
	return err
}

// takeAll takes files one after the other. The record is written after each, so that a
// power cut in a long first start costs one import.
func (p *pass) takeAll(files []found, take func(f found, report func(string)) error) {
	for n, f := range files {
		report := reporter(p.ctx, fmt.Sprintf("%s (%d of %d)", filepath.Base(f.path), n+1, len(files)))
		err := take(f, report)
		switch {
		case p.ctx.Err() != nil:
			return
		case err == nil:
			delete(p.faults, f.path)
		case err != errPulling:
			p.fail(p.ctx, f, err)
		}
		p.save()
	}
}

// logEvery is how often a long import tells in the log how far it is.
const logEvery = 15 * time.Second

// reporter returns a function that tells what is going on with a file: to the status as
// often as it is called, to the log now and then.
func reporter(ctx context.Context, file string) func(string) {
	last := time.Now()
	return func(text string) {
		lifecycle.Progress(ctx, file+": "+text)
		if time.Since(last) > logEvery {
			last = time.Now()
			lifecycle.Logger(ctx).Info("importing an image archive", "archive", file, "progress", text)
		}
	}
}

// save writes the record. Without it archives are read again, nothing worse.
func (p *pass) save() {
	if err := p.record.write(); err != nil {
		lifecycle.Logger(p.ctx).Warn("the next start will import image archives again", "error", err)
	}
}

// takeArchive imports an archive, unless the record says that it was imported. On error
// the record stays as it was.
func (p *pass) takeArchive(f found, report func(string)) error {
	last := p.record.stamps[f.path]
	if last.same(f.stamp) {
		there, err := p.keepPinned(last.Images, true)
		if err != nil {
			return err
		}
		if there || last.Broken != "" || len(last.Images) == 0 && last.Unusable != "" {
			last.warn(p.ctx, f.path)
			return nil
		}
	}
	report("reading")
	lifecycle.Logger(p.ctx).Info("importing an image archive", "archive", f.path, "size", inBytes(f.stamp.Size))
	now, err := p.importStamped(f, last, report)
	if err != nil {
		return err
	}
	if info, err := os.Stat(f.path); err != nil || !f.stamp.same(stampOf(info)) {
		lifecycle.Logger(p.ctx).Info("an image archive was replaced while it was read, it is read again", "archive", f.path)
		return p.release(now.Images)
	}
	p.record.stamps[f.path] = now
	return p.release(last.Images)
}

// importStamped imports an archive and returns its stamp. What no pod here can use, and
// what cannot be read, is logged, now and at each start, but not read again.
func (p *pass) importStamped(f found, last stamp, report func(string)) (stamp, error) {
	now := f.stamp
	var unusable *unusableError
	var broken *archiveError
	var err error
	now.Images, err = newImporter(p.client, p.store.Layout, p.snapshotter(), report).file(p.ctx, f.path)
	switch {
	case errors.As(err, &unusable):
		now.Unusable = unusable.text()
	case errors.As(err, &broken):
		now.Images, now.Broken = last.Images, broken.Error()
	case err != nil:
		return now, err
	}
	now.warn(p.ctx, f.path)
	if now.Broken != "" || len(now.Images) == 0 {
		return now, nil
	}
	// Images are pinned only when all went well: garbage collection must be able to free
	// what a full disk has cut short.
	if _, err := p.keepPinned(now.Images, true); err != nil {
		return now, err
	}
	p.brought = true
	lifecycle.Logger(p.ctx).Info("image archive imported", "archive", f.path, "images", names(now.Images))
	return now, nil
}

// warn logs what no pod of this node can use.
func (s stamp) warn(ctx context.Context, path string) {
	switch {
	case s.Broken != "":
		lifecycle.Logger(ctx).Error("an image archive cannot be read: replace it", "archive", path, "error", s.Broken)
	case s.Unusable != "":
		lifecycle.Logger(ctx).Warn("an image archive holds what pods of this node cannot use", "archive", path, "error", s.Unusable)
	}
}

// keepPinned reports whether all images are still there: somebody may have removed one.
// It restores the names of imported ones, and the protection of all, which an import
// under the same name takes away.
func (p *pass) keepPinned(images []Image, imported bool) (bool, error) {
	for _, i := range images {
		image, err := p.client.GetImage(p.ctx, i.Name)
		if err == nil && imported && image.Target().Digest.String() == i.Digest {
			err = recordImage(p.ctx, p.client, i.Name, image.Target())
		}
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err == nil && image.Labels()[pinnedLabel] != pinnedValue {
			err = setPinned(p.ctx, p.client, i.Name, true)
		}
		if err != nil {
			return false, err
		}
	}
	return len(images) > 0, nil
}

// releaseRemoved unpins the images of files that are no longer in the directory. Those
// that cannot be unpinned stay in the record for the next pass.
func (p *pass) releaseRemoved(there entries) {
	for _, path := range p.removed(there) {
		last := p.record.stamps[path]
		delete(p.record.stamps, path)
		if err := p.release(last.Images); err != nil {
			p.record.stamps[path] = last
			lifecycle.Logger(p.ctx).Warn("images of a removed archive stay protected from garbage collection", "archive", path, "error", err)
		}
	}
	p.save()
}

// release unpins the images that are in no file of the record.
func (p *pass) release(images []Image) error {
	var errs []error
	for _, i := range images {
		if !p.record.names(i.Name) {
			errs = append(errs, unpin(p.ctx, p.client, i.Name))
		}
	}
	return errors.Join(errs...)
}

// names returns the names of images in one line.
func names(images []Image) string {
	var out []string
	for _, i := range images {
		out = append(out, i.Name)
	}
	return strings.Join(out, " ")
}

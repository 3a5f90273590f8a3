package images

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"brink/internal/lifecycle"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxListSize keeps a file that is no list from being read as one.
const maxListSize = 1 << 20

// readList returns the names in a list, one a line, as the CRI knows them. Empty lines and
// those that begin with # are comments.
func readList(path string) (names []string, unusable []string, err error) {
	f, err := openFile(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if info.Size() > maxListSize {
		return nil, nil, &archiveError{fmt.Errorf("it has %s, too large for a list of names", inBytes(info.Size()))}
	}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name := WholeName(line)
		if _, err := podName(name); err != nil {
			unusable = append(unusable, fmt.Sprintf("line %d: %v", n, err))
			continue
		}
		names = append(names, name)
	}
	if err := lines.Err(); err != nil {
		return nil, nil, &archiveError{err}
	}
	return names, unusable, nil
}

// takeLists pins the images of lists, and returns those that have to be pulled first.
// failed has why some could not be, by their names; it is nil before the pulls.
func (d *Directory) takeLists(ctx context.Context, there entries, verify bool, failed map[string]error) (missing []string) {
	p := &pass{Directory: d, ctx: ctx, verify: verify}
	todo := p.todo(there, true)
	if len(todo) == 0 {
		return nil
	}
	p.with(todo, func() {
		p.takeAll(todo, func(f found, _ func(string)) error {
			more, err := p.takeList(f, failed)
			missing = append(missing, more...)
			return err
		})
	})
	d.setWarnings(there)
	return missing
}

// errPulling is not an error yet: images of a list are missing and will be pulled.
var errPulling = errors.New("its images are being pulled")

// takeList pins the images of a list that are there. The list is recorded when all are, or
// when those that are not could not be pulled: then it is tried again, but what was pulled
// is unpinned when the list goes.
func (p *pass) takeList(f found, failed map[string]error) (missing []string, err error) {
	last, now := p.record.stamps[f.path], f.stamp
	wanted, unusable, err := readList(f.path)
	var broken *archiveError
	if errors.As(err, &broken) {
		now.Images, now.Broken = last.Images, broken.Error()
	} else if err != nil {
		return nil, err
	}
	now.Unusable = strings.Join(unusable, "; ")
	var errs []error
	for _, name := range wanted {
		image, err := p.pinPulled(name)
		switch {
		case err == nil:
			now.Images = append(now.Images, image)
		case !errdefs.IsNotFound(err):
			return nil, err
		case failed == nil:
			missing = append(missing, name)
		default:
			errs = append(errs, fmt.Errorf("pulling %s: %w", name, cmp.Or(failed[name], err)))
		}
	}
	if len(missing) > 0 {
		return missing, errPulling
	}
	now.warn(p.ctx, f.path)
	if len(errs) > 0 {
		now.Size, now.Modified = 0, time.Time{} // not done
	}
	p.record.stamps[f.path] = now
	return nil, errors.Join(append(errs, p.release(last.Images))...)
}

// pinPulled pins an image, and returns an error that is errdefs.ErrNotFound if it is not
// there.
func (p *pass) pinPulled(name string) (Image, error) {
	image, err := p.client.GetImage(p.ctx, name)
	if err != nil {
		return Image{}, err
	}
	if image.Labels()[pinnedLabel] != pinnedValue {
		err = setPinned(p.ctx, p.client, name, true)
	}
	return Image{Name: name, Digest: image.Target().Digest.String()}, err
}

// startPulls pulls images, one after the other, and sends why some could not be pulled. It
// returns nil when there are none.
func (d *Directory) startPulls(ctx context.Context, names []string) <-chan map[string]error {
	if len(names) == 0 {
		return nil
	}
	done := make(chan map[string]error, 1)
	go func() {
		failed := map[string]error{}
		for n, name := range names {
			lifecycle.Progress(ctx, fmt.Sprintf("pulling %s (%d of %d)", name, n+1, len(names)))
			lifecycle.Logger(ctx).Info("pulling an image of a list", "image", name)
			if err := pull(ctx, d.store.Layout.ContainerdSocket(), name); err != nil {
				failed[name] = err
			}
		}
		lifecycle.Progress(ctx, "")
		done <- failed
	}()
	return done
}

// listKey is the key of a call's metadata that says that a list of images pulls.
const listKey = "brink-image-list"

// IsOfList reports whether a call to the CRI is a list's: no pod of it is there that would
// show that what it has fetched is still wanted.
func IsOfList(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, listKey)) > 0
}

// pull pulls an image as the kubelet does, with the node's own credentials.
func pull(ctx context.Context, socket, name string) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to the CRI: %w", err)
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, listKey, "true")
	_, err = cri.NewImageServiceClient(conn).PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
	return err
}

// stampOf returns what the record keeps of a file.
func stampOf(info os.FileInfo) stamp {
	return stamp{Size: info.Size(), Modified: info.ModTime().UTC()}
}

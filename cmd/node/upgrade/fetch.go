package upgrade

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"brink/cmd/node"
	"brink/internal/atomicfile"
	"brink/internal/release"
)

// client gives up on a server that does not answer, and never on a slow line.
var client = &http.Client{Transport: &http.Transport{
	Proxy:                 http.ProxyFromEnvironment,
	DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
	TLSHandshakeTimeout:   30 * time.Second,
	ResponseHeaderTimeout: time.Minute,
}}

// fetch gets the new binary, verifies and tries it, and fills in which version it is.
func (q Request) fetch(ctx context.Context, r *Record) error {
	if err := q.get(ctx, r); err != nil {
		return err
	}
	to, err := versionOf(ctx, newOf(r.Binary))
	if err != nil {
		return err
	}
	switch r.To {
	case to.String(): // a release, which was compared before it was downloaded
	case "":
		r.To = to.String()
		if err := q.compare(ctx, *r, to); err != nil {
			return err
		}
	default:
		return fmt.Errorf("what was downloaded as %s says that it is %s", r.To, to)
	}
	status, err := node.AskStatus(ctx, q.Layout)
	if err != nil {
		return err
	}
	q.Say("trying " + r.To + " on this machine")
	return try(ctx, newOf(r.Binary), status.PID)
}

// get writes the new binary to its place.
func (q Request) get(ctx context.Context, r *Record) error {
	if strings.HasPrefix(q.What, "http://") || strings.HasPrefix(q.What, "https://") {
		u, err := url.Parse(q.What)
		if err != nil || u.Host == "" {
			return errors.New("the URL of the new version cannot be read: write special characters of its user and password as %XX")
		}
		return q.getURL(ctx, r, u)
	}
	if strings.ContainsRune(q.What, '/') {
		return q.getFile(r, q.What)
	}
	return q.getRelease(ctx, r)
}

// getRelease downloads by version or channel. What must not be is refused before that.
func (q Request) getRelease(ctx context.Context, r *Record) error {
	base := q.Mirror
	if base == "" {
		base = release.BaseURL()
	}
	site, err := release.NewSite(base)
	if errors.Is(err, release.ErrNoSite) {
		return fmt.Errorf("%w with --mirror, or the path of a file", err)
	}
	if err != nil {
		return err
	}
	d := release.Downloader{Client: client, Site: site, Progress: q.progress()}
	to, err := d.Resolve(ctx, q.What)
	if err != nil {
		return err
	}
	r.To = to.String()
	if err := q.compare(ctx, *r, to); err != nil {
		return err
	}
	sums, err := d.Sums(ctx, to)
	if errors.Is(err, release.ErrNoKey) {
		q.Say("this brink was built without a key: only sums are compared")
	} else if err != nil {
		return err
	}
	q.Say("downloading " + r.To)
	return writeNew(r.Binary, func(w io.Writer) error { return d.Binary(ctx, to, runtime.GOARCH, sums, w) })
}

// progress tells of each tenth of a download.
func (q Request) progress() func(here, all int64) {
	told := int64(0)
	return func(here, all int64) {
		if all <= 0 || here*10/all <= told {
			return
		}
		told = here * 10 / all
		q.Say(fmt.Sprintf("downloaded %d of %d MB", here>>20, all>>20))
	}
}

// getFile takes a file that somebody has brought, with the release's sums and signature beside
// it.
func (q Request) getFile(r *Record, file string) error {
	dir := filepath.Dir(file)
	sums, err := q.sums(func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) })
	if err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return q.unpack(r, sums, f)
}

// getURL is getFile for a file on a web server.
func (q Request) getURL(ctx context.Context, r *Record, u *url.URL) error {
	beside := func(name string) *url.URL {
		other := *u
		other.Path, other.RawPath = path.Dir(u.Path)+"/"+name, path.Dir(u.EscapedPath())+"/"+name
		return &other
	}
	sums, err := q.sums(func(name string) ([]byte, error) {
		body, err := open(ctx, beside(name))
		if err != nil {
			return nil, err
		}
		defer body.Close()
		return io.ReadAll(io.LimitReader(body, 1<<20))
	})
	if err != nil {
		return err
	}
	body, err := open(ctx, u)
	if err != nil {
		return err
	}
	defer body.Close()
	return q.unpack(r, sums, body)
}

func open(ctx context.Context, u *url.URL) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("downloading: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("downloading %s: the server says %s", release.ShownURL(u.String()), resp.Status)
	}
	return resp.Body, nil
}

// sums reads and verifies the sums beside a file. Without a key in this binary, sums that are
// not there are only told.
func (q Request) sums(read func(name string) ([]byte, error)) (release.Sums, error) {
	text, err := read(release.SumsFile)
	if err != nil {
		if release.HasKey() {
			return nil, fmt.Errorf("the new binary cannot be verified, its %s and %s must lie beside it: %w", release.SumsFile, release.SignatureFile, err)
		}
		q.Say("this brink was built without a key, and there are no sums beside the file: nothing is verified")
		return nil, nil
	}
	if !release.HasKey() {
		q.Say("this brink was built without a key: only sums are compared")
		return release.ParseSums(text)
	}
	signature, err := read(release.SignatureFile)
	if err != nil {
		return nil, fmt.Errorf("the new binary cannot be verified, %s must lie beside it: %w", release.SignatureFile, err)
	}
	if err := release.VerifySums(text, signature); err != nil {
		return nil, err
	}
	return release.ParseSums(text)
}

func (q Request) unpack(r *Record, sums release.Sums, packed io.Reader) error {
	return writeNew(r.Binary, func(w io.Writer) error {
		sum, err := release.Unpack(w, packed)
		if err != nil || sums == nil {
			return err
		}
		return sums.Check(release.BinaryFile(runtime.GOARCH), [sha256.Size]byte(sum))
	})
}

// writeNew writes the new binary beside the old one, whole or not at all.
func writeNew(binary string, produce func(io.Writer) error) error {
	to := newOf(binary)
	if err := atomicfile.Clean(filepath.Dir(to), filepath.Base(to)); err != nil {
		return err
	}
	err := atomicfile.WriteWith(to, 0o755, produce)
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk of %s is too full for the new binary: free some space", filepath.Dir(binary))
	}
	return err
}

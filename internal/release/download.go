package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// small is more than any of SHA256SUMS, its signature and a channel has.
const small = 1 << 20

// Downloader fetches a release. Client must give up on a server that hangs, but not on a slow
// line: a timeout for the whole of a request would.
type Downloader struct {
	Client *http.Client
	Site   Site
	// Progress, unless it is nil, is told how many of all bytes of the binary are here. All
	// is -1 if the server does not say.
	Progress func(here, all int64)
}

// Resolve returns the version that was asked for: v1.36.3+brink.1 as it is, and of anything
// else, like stable, what that channel is at.
func (d Downloader) Resolve(ctx context.Context, asked string) (Version, error) {
	if strings.HasPrefix(asked, "v") {
		return ParseVersion(asked)
	}
	at, err := d.Site.Channel(asked)
	if err != nil {
		return Version{}, err
	}
	text, err := d.small(ctx, at)
	if err != nil {
		return Version{}, err
	}
	v, err := ParseVersion(strings.TrimSuffix(string(text), "\n"))
	if err != nil {
		return Version{}, fmt.Errorf("channel %s: %w", asked, err)
	}
	return v, nil
}

// Sums fetches the sums of a release, and checks their signature and version. In a binary without a key it
// returns them beside ErrNoKey.
func (d Downloader) Sums(ctx context.Context, v Version) (Sums, error) {
	text, err := d.small(ctx, d.Site.File(v, SumsFile))
	if err != nil {
		return nil, err
	}
	unsigned := error(ErrNoKey)
	if HasKey() {
		signature, err := d.small(ctx, d.Site.File(v, SignatureFile))
		if err != nil {
			return nil, err
		}
		unsigned = VerifySums(text, signature)
	}
	if unsigned != nil && !errors.Is(unsigned, ErrNoKey) {
		return nil, unsigned
	}
	sums, err := ParseSums(text)
	if err == nil {
		err = sums.CheckVersion(v)
	}
	if err != nil {
		return nil, err
	}
	return sums, unsigned
}

// Binary writes the binary of a release to dst, unpacked, while it comes. What dst holds is
// good only if no error is returned: then it has the sum that sums say.
func (d Downloader) Binary(ctx context.Context, v Version, arch string, sums Sums, dst io.Writer) error {
	at := d.Site.File(v, CompressedFile(arch))
	body, all, err := d.get(ctx, at)
	if err != nil {
		return err
	}
	defer body.Close()
	sum, err := Unpack(dst, &progress{in: body, all: all, tell: d.Progress})
	if err != nil {
		return fmt.Errorf("%s: %w", ShownURL(at), err)
	}
	return sums.Check(BinaryFile(arch), sum)
}

func (d Downloader) small(ctx context.Context, at string) ([]byte, error) {
	body, _, err := d.get(ctx, at)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, small+1))
	if err != nil {
		return nil, fmt.Errorf("downloading %s: %w", ShownURL(at), err)
	}
	if len(data) > small {
		return nil, fmt.Errorf("%s is too large: this is no place of brink's releases", ShownURL(at))
	}
	return data, nil
}

func (d Downloader) get(ctx context.Context, at string) (io.ReadCloser, int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("User-Agent", "brink/"+version)
	resp, err := d.Client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("downloading: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("downloading %s: the server says %s", ShownURL(at), resp.Status)
	}
	return resp.Body, resp.ContentLength, nil
}

// progress tells how much of a body was read.
type progress struct {
	in        io.Reader
	here, all int64
	tell      func(here, all int64)
}

// Read reads on, and tells.
func (p *progress) Read(b []byte) (int, error) {
	n, err := p.in.Read(b)
	p.here += int64(n)
	if p.tell != nil {
		p.tell(p.here, p.all)
	}
	return n, err
}

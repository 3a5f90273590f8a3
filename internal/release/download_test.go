package release

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"brink/internal/testerror"
)

// elf is what a binary is to this package: anything that begins like one.
var elf = append([]byte("\x7fELF"), bytes.Repeat([]byte("brink "), 100_000)...)

func zstdOf(t *testing.T, data []byte, window int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipOf(data []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(data)
	w.Close()
	return out.Bytes()
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	for name, packed := range map[string][]byte{"zstd": zstdOf(t, elf, window), "gzip": gzipOf(elf), "as it is": elf} {
		var out bytes.Buffer
		sum, err := Unpack(&out, bytes.NewReader(packed))
		if err != nil || sum != sha256.Sum256(elf) || !bytes.Equal(out.Bytes(), elf) {
			t.Errorf("%s: %d bytes, %v", name, out.Len(), err)
		}
	}
	_, err := Unpack(io.Discard, bytes.NewReader(zstdOf(t, elf, 2*window)))
	testerror.OneLine(t, err, "window")
	_, err = Unpack(io.Discard, bytes.NewReader(zstdOf(t, elf, window)[:60]))
	testerror.OneLine(t, err, "unexpected EOF")
}

// published serves files by their paths.
func published(t *testing.T, files map[string]string) Downloader {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content, ok := files[r.URL.EscapedPath()]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, content)
	}))
	t.Cleanup(server.Close)
	return Downloader{Client: server.Client(), Site: mustSite(t, server.URL+"/b")}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	d := published(t, map[string]string{"/b/channels/stable": v1 + "\n", "/b/channels/broken": "<html>"})
	for asked, want := range map[string]string{"stable": v1, "v1.35.0+brink.7": "v1.35.0+brink.7"} {
		v, err := d.Resolve(context.Background(), asked)
		if err != nil || v.String() != want {
			t.Errorf("%s is %s, %v", asked, v, err)
		}
	}
	for asked, want := range map[string]string{
		"latest": "/b/channels/latest: the server says 404 Not Found",
		"broken": `channel broken: "<html>" is not a version of brink`,
		"v1.36":  `"v1.36" is not a version of brink`,
		"../x":   `"../x" is no name of a channel`,
	} {
		_, err := d.Resolve(context.Background(), asked)
		testerror.OneLine(t, err, want)
	}
}

// releaseOf is what is served for v1: sums, their signature, and a binary.
func releaseOf(t *testing.T, by ed25519.PrivateKey) map[string]string {
	t.Helper()
	sums := fmt.Sprintf("%x  %s\n%x  %s\n", sha256.Sum256([]byte(v1+"\n")), VersionFile, sha256.Sum256(elf), BinaryFile("arm64"))
	dir := "/b/v1.36.3%2Bbrink.1/"
	return map[string]string{
		dir + SumsFile:                sums,
		dir + SignatureFile:           string(ed25519.Sign(by, []byte(sums))),
		dir + CompressedFile("arm64"): string(zstdOf(t, elf, window)),
	}
}

// withKey sets the key that the linker sets. Tests that use it cannot run beside others.
func withKey(t *testing.T, key string) {
	before := publicKeys
	publicKeys = key
	t.Cleanup(func() { publicKeys = before })
}

func TestDownload(t *testing.T) {
	key, private := newKey(t)
	withKey(t, key)
	d := published(t, releaseOf(t, private))
	var here, all int64
	d.Progress = func(h, a int64) { here, all = h, a }
	v := parsed(t, v1)
	sums, err := d.Sums(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := d.Binary(t.Context(), v, "arm64", sums, &out); err != nil || !bytes.Equal(out.Bytes(), elf) {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	if here == 0 || here != all {
		t.Errorf("progress ends at %d of %d", here, all)
	}
	testerror.OneLine(t, d.Binary(t.Context(), v, "arm", sums, io.Discard), "brink-linux-arm.zst: the server says 404")
	sums[BinaryFile("arm64")] = sha256.Sum256(nil)
	testerror.OneLine(t, d.Binary(t.Context(), v, "arm64", sums, io.Discard), "brink-linux-arm64 is damaged or was changed")
}

func TestSumsRefuses(t *testing.T) {
	key, private := newKey(t)
	withKey(t, key)
	_, strange := newKey(t)
	v := parsed(t, v1)
	_, err := published(t, releaseOf(t, strange)).Sums(t.Context(), v)
	testerror.OneLine(t, err, "not signed by the key of this brink")

	// A signature that is taken away is no release without one.
	unsigned := releaseOf(t, private)
	delete(unsigned, "/b/v1.36.3%2Bbrink.1/"+SignatureFile)
	_, err = published(t, unsigned).Sums(t.Context(), v)
	testerror.OneLine(t, err, "SHA256SUMS.sig: the server says 404")

	// An older release in the place of a newer one.
	moved := map[string]string{}
	for path, content := range releaseOf(t, private) {
		moved[strings.Replace(path, "brink.1", "brink.2", 1)] = content
	}
	_, err = published(t, moved).Sums(t.Context(), parsed(t, "v1.36.3+brink.2"))
	testerror.OneLine(t, err, "not that of version v1.36.3+brink.2")
}

func TestSumsWithoutKey(t *testing.T) {
	withKey(t, "")
	_, private := newKey(t)
	sums, err := published(t, releaseOf(t, private)).Sums(t.Context(), parsed(t, v1))
	testerror.OneLine(t, err, ErrNoKey.Error())
	if len(sums) != 2 {
		t.Errorf("no sums beside the error: %v", sums)
	}
}

// TestTooLarge: a server that is none of ours must not fill memory.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	d := published(t, map[string]string{"/b/channels/stable": strings.Repeat("v", small+1)})
	_, err := d.Resolve(context.Background(), "stable")
	testerror.OneLine(t, err, "too large: this is no place of brink's releases")
}

// TestPasswordIsNotShown: a mirror's URL may have one, and errors go to logs.
func TestPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	d := published(t, map[string]string{
		"/b/channels/stable":                              strings.Repeat("v", small+1),
		"/b/v1.36.3%2Bbrink.1/" + CompressedFile("arm64"): "no binary",
	})
	d.Site = mustSite(t, strings.Replace(d.Site.base, "http://", "http://user:secret@", 1))
	away := d
	away.Site = mustSite(t, "http://user:secret@127.0.0.1:1/b")
	resolve := func(d Downloader, asked string) error {
		_, err := d.Resolve(t.Context(), asked)
		return err
	}
	for what, err := range map[string]error{
		"not found":      resolve(d, "latest"),
		"too large":      resolve(d, "stable"),
		"not reachable":  resolve(away, "stable"),
		"not unpackable": d.Binary(t.Context(), parsed(t, v1), "arm64", nil, io.Discard),
	} {
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "user:xxxxx@") && !strings.Contains(err.Error(), "user:***@") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

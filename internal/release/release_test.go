package release

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"brink/internal/testerror"
)

const v1 = "v1.36.3+brink.1"

func TestNames(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		CompressedFile("arm"):                                           "brink-linux-arm.zst",
		AirgapFile("arm64"):                                             "brink-airgap-linux-arm64.tar",
		AirgapDirectory("amd64", parsed(t, v1)):                         "brink-airgap-linux-amd64-v1.36.3+brink.1",
		mustSite(t, "https://example.org").base:                         "https://example.org",
		mustSite(t, "http://[fd00::1]:80/b/").base:                      "http://[fd00::1]:80/b",
		mustSite(t, "https://example.org/a b").File(parsed(t, v1), "x"): "https://example.org/a%20b/v1.36.3%2Bbrink.1/x",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func mustSite(t *testing.T, base string) Site {
	t.Helper()
	s, err := NewSite(base)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNewSiteRefuses(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "example.org", "/srv/brink", "file:///srv", "https://", "https://h/?a=b", "https://h/#a", "https://h h/", "ftp://h"} {
		if s, err := NewSite(base); err == nil {
			t.Errorf("%q is taken as %v", base, s)
		}
	}
	if _, err := NewSite(""); !errors.Is(err, ErrNoSite) {
		t.Errorf("no URL: %v", err)
	}
	for _, base := range []string{"ftp://user:secret@h", "user:secret@h/b", "https://user:secret@h h/", "https://user:secret/1@h/", "https://h/?token=secret"} {
		if _, err := NewSite(base); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: a password is shown, or taken: %v", base, err)
		}
	}
}

func TestChannel(t *testing.T) {
	t.Parallel()
	site := mustSite(t, "https://h")
	if at, err := site.Channel("v1.36"); err != nil || at != "https://h/channels/v1.36" {
		t.Errorf("%s, %v", at, err)
	}
	for _, name := range []string{"", ".", "../x", "a/b", "A", "a b", strings.Repeat("a", 64)} {
		if at, err := site.Channel(name); err == nil {
			t.Errorf("channel %q is %s", name, at)
		}
	}
}

func TestParseSums(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("x"))
	line := func(sep, name string) string { return fmt.Sprintf("%x%s%s\n", sum, sep, name) }
	sums, err := ParseSums([]byte(line("  ", "a") + line(" *", "brink_1.36.3+brink.1_amd64.deb")))
	if err != nil || len(sums) != 2 || sums.Check("a", sum) != nil {
		t.Fatalf("%v, %v", sums, err)
	}
	testerror.OneLine(t, sums.Check("b", sum), "SHA256SUMS has no sum of b")
	testerror.OneLine(t, sums.Check("a", sha256.Sum256(nil)), "a is damaged or was changed")
	for _, bad := range []string{
		"", "\n", "x  a\n", line("  ", "../a"), line("  ", ".a"), line(" ", "a"), line("  ", "a b"), line("  ", "a") + "\n",
		strings.ToUpper(line("  ", "a")), "\\" + line("  ", "a"), line("  ", "a") + line(" *", "a"), line("  ", strings.Repeat("a", 1<<17)),
	} {
		if sums, err := ParseSums([]byte(bad)); err == nil {
			t.Errorf("%.80q is taken as %v", bad, sums)
		}
	}
}

func TestCheckVersion(t *testing.T) {
	t.Parallel()
	sums := Sums{VersionFile: sha256.Sum256([]byte(v1 + "\n"))}
	if err := sums.CheckVersion(parsed(t, v1)); err != nil {
		t.Error(err)
	}
	testerror.OneLine(t, sums.CheckVersion(parsed(t, "v1.36.3+brink.2")), "SHA256SUMS is not that of version v1.36.3+brink.2")
	testerror.OneLine(t, Sums{}.CheckVersion(parsed(t, v1)), "SHA256SUMS is not that of version")
}

func newKey(t *testing.T) (string, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der), private
}

func TestVerify(t *testing.T) {
	t.Parallel()
	oldKey, oldPrivate := newKey(t)
	key, private := newKey(t)
	_, strange := newKey(t)
	text := []byte("sums")
	sign := func(by ed25519.PrivateKey) []byte { return ed25519.Sign(by, text) }
	for _, c := range []struct {
		name, keys string
		text       []byte
		signature  []byte
		want       string
	}{
		{"good", key, text, sign(private), ""},
		{"while keys change", oldKey + "," + key, text, sign(private), ""},
		{"the old key", oldKey + "," + key, text, sign(oldPrivate), ""},
		{"another's key", key, text, sign(strange), "SHA256SUMS is not signed by the key of this brink"},
		{"another text", key, []byte("sumz"), sign(private), "SHA256SUMS is not signed by the key of this brink"},
		{"cut short", key, text, sign(private)[:63], "SHA256SUMS.sig has 63 bytes"},
		{"not there", key, text, nil, "SHA256SUMS.sig has 0 bytes"},
		{"no key", "", text, sign(private), ErrNoKey.Error()},
		{"a broken build", "abc", text, sign(private), "the key in this brink"},
	} {
		if err := verify(c.keys, c.text, c.signature); c.want == "" && err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if c.want != "" {
			testerror.OneLine(t, err, c.want)
		}
	}
}

// TestUnpackStops: what a compressed file says must not fill the card.
func TestUnpackStops(t *testing.T) {
	t.Parallel()
	_, err := copySum(discard{}, endless{})
	testerror.OneLine(t, err, "larger than 512 MB")
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"":                   "empty or cut short",
		"abc":                "empty or cut short",
		"<html>":             "neither a brink nor one that is packed",
		"\xfd7zXZ\x00":       "run unxz first",
		"\x1f\x8bxxxxxxxxxx": "unpacking",
		"\x28\xb5\x2f\xfd":   "unpacking",
	} {
		var out bytes.Buffer
		_, err := Unpack(&out, strings.NewReader(content))
		testerror.OneLine(t, err, want)
	}
}

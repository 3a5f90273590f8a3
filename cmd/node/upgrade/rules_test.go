package upgrade

import (
	"slices"
	"strings"
	"testing"
	"time"

	"brink/internal/layout"
	"brink/internal/release"
	"brink/internal/testerror"
)

func version(t *testing.T, text string) release.Version {
	t.Helper()
	v, err := release.ParseVersion(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCheckVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, to, server, want string }{
		{"v1.36.3+brink.1", "v1.36.3+brink.2", "", ""},
		{"v1.36.3+brink.2", "v1.37.0+brink.1", "", ""},
		{"v1.36.3+brink.1.dev.1.gabc", "v1.36.3+brink.1", "", ""},
		{"v1.36.3+brink.2", "v1.36.3+brink.1", "", "is older than"},
		{"v1.36.3+brink.2", "v1.35.9+brink.1", "", "--rollback"},
		{"v1.36.3+brink.2", "v1.38.0+brink.1", "", "upgrade to v1.37 first"},
		{"v1.36.3+brink.2", "v2.36.0+brink.1", "", "skips a minor version"},
		{"v1.36.3+brink.1", "v1.37.0+brink.1", "v1.37.0+brink.1", ""},
		{"v1.36.3+brink.1", "v1.37.0+brink.1", "v1.36.9+brink.9", "upgrade the server first"},
		{"v1.36.3+brink.1", "v1.36.3+brink.2", "v1.36.3+brink.1", "upgrade the server first"},
	} {
		var server *release.Version
		if c.server != "" {
			v := version(t, c.server)
			server = &v
		}
		err := checkVersions(version(t, c.from), version(t, c.to), server)
		if c.want != "" {
			testerror.OneLine(t, err, c.want)
		} else if err != nil {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
}

func TestCheckArgs(t *testing.T) {
	t.Parallel()
	got := checkArgs([]string{"/usr/local/bin/brink", "agent", "--server", "https://a:6443", "--token", "xxxx", "-t=xxxx", "--token-file=/x", "--debug", ""})
	if want := []string{"--server", "https://a:6443", "--token-file=/x", "--debug"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	if _, err := Read(l); err != ErrNone {
		t.Errorf("before any: %v", err)
	}
	r := Record{DataDir: l.Data(), Phase: Returned, From: "v1", To: "v2", Reason: "it ended", Ended: time.Unix(0, 0),
		Lost: &Lost{After: 10, UpTo: 20, Since: time.Unix(0, 0), Until: time.Unix(60, 0), KeptIn: "/kept"}}
	if err := r.write(l); err != nil {
		t.Fatal(err)
	}
	got, err := Read(l)
	if err != nil || got.IsUnderWay() {
		t.Errorf("%+v (%v)", got, err)
	}
	copied := layout.New(t.TempDir())
	if err := r.write(copied); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(copied); err != ErrNone {
		t.Errorf("a copy of the data directory: %v", err)
	}
	text := strings.Join(got.Lines(), "\n")
	for _, want := range []string{"from v1 to v2 failed, v1 is back", "it ended", "writes from then until 1970-01-01 00:01:00Z (revisions 11 to 20)", "kept in /kept"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
}

package release

import (
	"slices"
	"testing"

	utilversion "k8s.io/apimachinery/pkg/util/version"
)

// inOrder are versions from the oldest to the newest.
var inOrder = []string{
	"v1.35.9+brink.12",
	"v1.36.3+brink.1.dev",
	"v1.36.3+brink.1.dev.20261130094500.gcca476d",
	"v1.36.3+brink.1.dev.20261130094501.g0000000",
	"v1.36.3+brink.1.dev.20261130094501.g0000000.dirty",
	"v1.36.3+brink.1",
	"v1.36.3+brink.2.dev.20200101000000.g0000000",
	"v1.36.3+brink.2",
	"v1.36.3+brink.10",
	"v1.36.10+brink.1",
	"v1.100.0+brink.1",
	"v2.0.0+brink.1",
}

func parsed(t *testing.T, s string) Version {
	t.Helper()
	v, err := ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestCompare(t *testing.T) {
	t.Parallel()
	for i, a := range inOrder {
		for j, b := range inOrder {
			want := min(1, max(-1, i-j))
			if got := parsed(t, a).Compare(parsed(t, b)); got != want {
				t.Errorf("%s to %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

// TestKubernetesParsesVersions: the API server and the kubelet tell the version, and all
// clients parse it.
func TestKubernetesParsesVersions(t *testing.T) {
	t.Parallel()
	for _, s := range inOrder {
		v := parsed(t, s)
		if v.String() != s {
			t.Errorf("%s is printed as %s", s, v)
		}
		theirs, err := utilversion.ParseSemantic(s)
		if err != nil {
			t.Errorf("Kubernetes does not parse %s: %v", s, err)
			continue
		}
		if "v"+theirs.WithBuildMetadata("").String() != v.Kubernetes() {
			t.Errorf("Kubernetes takes %s for %s", s, theirs)
		}
	}
}

func TestParseVersionRefuses(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "dev", "stable", "v1.36.3", "1.36.3+brink.1", "v1.36+brink.1", "v1.36.3+k3s1", "v1.36.3+brink.0", "v1.36.3+brink.01",
		"v1.36.3+brink.1.2", "v1.36.3+brink.1.dev.", "v1.36.3+brink.1.dev/..", "v1.36.3+brink.1\n", " v1.36.3+brink.1",
		"v1.36.3 brink.1", "v01.36.3+brink.1", "v1.36.3+brink.99999999999999999999", "v1.36.3+brink.1.devil", "v1.36.3-rc.1+brink.1",
	} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("%q is taken as %v", s, v)
		}
	}
}

func TestMinorsAfter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v, other string
		want     int
	}{
		{"v1.36.3+brink.1", "v1.36.9+brink.7", 0},
		{"v1.37.0+brink.1", "v1.36.9+brink.7", 1},
		{"v1.36.3+brink.1", "v1.38.0+brink.1", -2},
		{"v2.0.0+brink.1", "v1.36.0+brink.1", 1000},
	} {
		if got := parsed(t, c.v).MinorsAfter(parsed(t, c.other)); got != c.want {
			t.Errorf("%s after %s: %d, want %d", c.v, c.other, got, c.want)
		}
	}
	if !slices.IsSortedFunc(inOrder, func(a, b string) int { return parsed(t, a).Compare(parsed(t, b)) }) {
		t.Error("sorting does not keep the order")
	}
}

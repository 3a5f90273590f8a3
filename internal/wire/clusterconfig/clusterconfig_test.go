package clusterconfig

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestSettingsSurviveTheirText(t *testing.T) {
	t.Parallel()
	want := Config{
		ClusterCIDRs:   []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/56")},
		ServiceCIDRs:   []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")},
		ClusterDNS:     []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		ClusterDomain:  "cluster.local",
		NetworkBackend: "vxlan",
		ClientCA:       "-----BEGIN CERTIFICATE-----",
	}
	text, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Decode(%s) = %+v, %v", text, got, err)
	}
	if _, err := Decode(strings.Replace(text, "{", `{"later": 1,`, 1)); err != nil {
		t.Errorf("a newer server's key: %v", err)
	}
}

func TestDecodeSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                  "reading the cluster's settings",
		"{}":                                "no clientCA",
		`{"clusterCIDRs":["10.42.0.0/16"]}`: "no serviceCIDRs",
		`{"clusterCIDRs":["10.42"]}`:        "reading the cluster's settings",
	} {
		if _, err := Decode(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Decode(%q): %v, want %q in it", text, err, want)
		}
	}
}

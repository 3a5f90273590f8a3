package datastore

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestNamesCA: the API server stores the ConfigMap as --storage-media-type says.
func TestNamesCA(t *testing.T) {
	t.Parallel()
	const ca, other = "-----BEGIN CERTIFICATE-----\nMIIB\nQUJD+/==\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nMIIX\n-----END CERTIFICATE-----\n"
	inJSON, err := json.Marshal(map[string]any{"kind": "ConfigMap", "data": map[string]string{"ca.crt": ca}})
	if err != nil {
		t.Fatal(err)
	}
	inYAML := "apiVersion: v1\ndata:\n  ca.crt: |\n    " + strings.ReplaceAll(strings.TrimSpace(ca), "\n", "\n    ") + "\nkind: ConfigMap\n"
	for name, c := range map[string]struct {
		object, bundle string
		want           bool
	}{
		"protobuf":              {envelope("v1", "ConfigMap", ca), ca, true},
		"JSON":                  {string(inJSON), ca, true},
		"YAML":                  {inYAML, ca, true},
		"encrypted":             {"k8s:enc:aescbc:v1:key:x", ca, true},
		"another's in protobuf": {envelope("v1", "ConfigMap", ca), other, false},
		"another's in JSON":     {string(inJSON), other, false},
		"another's in YAML":     {inYAML, other, false},
	} {
		if got := namesCA([]byte(c.object), []byte(c.bundle)); got != c.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

// TestYAMLIsSound: a row without a checksum is not taken for damaged because the user has
// chosen another encoding.
func TestYAMLIsSound(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		"apiVersion: v1\nkind: Secret\n":     true,
		"apiVersion: v1\nkind: Sec\xferet\n": false,
		"apiVersi\x01n: v1\nkind: Secret\n":  false,
	} {
		r := storedRow{name: "/registry/secrets/default/a", created: 1, value: []byte(value), typed: true}
		if got := r.isSound(); got != want {
			t.Errorf("%q: got %t", value, got)
		}
	}
}

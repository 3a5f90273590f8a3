package ciphers

import (
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	t.Parallel()
	names := strings.Split(Names(), ",")
	// HTTP/2 needs it, RFC 9113 section 9.2.2.
	if !slices.Contains(names, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256") || !slices.Contains(names, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256") {
		t.Errorf("got %s", names)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, "TLS_ECDHE_") || !strings.Contains(name, "_GCM_") && !strings.Contains(name, "_CHACHA20_") {
			t.Errorf("%s neither authenticates nor has forward secrecy", name)
		}
	}
}

// Package ciphers says which TLS 1.2 cipher suites brink's ports take: those that
// authenticate what they encrypt. Go's own default has suites in CBC mode too, for
// clients of the last century, and benchmarks for clusters count them as a
// fault. TLS 1.3 has no others.
package ciphers

import (
	"crypto/tls"
	"slices"
	"strings"
)

// Names is a list for the flag --tls-cipher-suites of Kubernetes' components.
func Names() string {
	var names []string
	for _, suite := range tls.CipherSuites() {
		if slices.Contains(suite.SupportedVersions, tls.VersionTLS12) && !strings.Contains(suite.Name, "_CBC_") {
			names = append(names, suite.Name)
		}
	}
	return strings.Join(names, ",")
}

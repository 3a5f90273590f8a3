// Package ciphers has the TLS 1.2 cipher suites that brink's ports accept: those with
// authenticated encryption. Go's default also has suites in CBC mode, for very old clients,
// which security benchmarks for clusters report as a fault. TLS 1.3 has only suites with
// authenticated encryption.
package ciphers

import (
	"crypto/tls"
	"slices"
	"strings"
)

// Names returns the list for the flag --tls-cipher-suites of Kubernetes' components.
func Names() string {
	var names []string
	for _, suite := range tls.CipherSuites() {
		if slices.Contains(suite.SupportedVersions, tls.VersionTLS12) && !strings.Contains(suite.Name, "_CBC_") {
			names = append(names, suite.Name)
		}
	}
	return strings.Join(names, ",")
}

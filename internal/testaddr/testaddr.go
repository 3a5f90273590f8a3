// Package testaddr writes addresses and prefixes in tests. Only tests import it: a text
// that is no address panics.
package testaddr

import "net/netip"

// Addrs returns the addresses that texts are.
func Addrs(texts ...string) []netip.Addr { return each(netip.MustParseAddr, texts) }

// Prefixes returns the prefixes that texts are.
func Prefixes(texts ...string) []netip.Prefix { return each(netip.MustParsePrefix, texts) }

// each returns nil for no texts, as configurations have it that name none.
func each[T any](parse func(string) T, texts []string) []T {
	var out []T
	for _, text := range texts {
		out = append(out, parse(text))
	}
	return out
}

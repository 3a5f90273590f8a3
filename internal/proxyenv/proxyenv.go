// Package proxyenv limits the proxies of the environment (HTTPS_PROXY and the like) to
// what lies outside of the cluster. A proxy is there for pulling images; pods, Services
// and nodes are not behind it.
//
// Go's HTTP clients read the variables once, at their first request, so Exclude must be
// called before: cmd/node knows the ranges of a server, and an agent learns its cluster's
// when it has joined, and pulls images only after that.
//
// Names of nodes are in no domain that could be excluded. Connections to kubelets avoid
// the proxy in server/controlplane, see directly.
package proxyenv

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// proxies and exceptions are the variables' names, in the order in which Go's
// package httpproxy asks for them.
var (
	proxies    = []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"}
	exceptions = []string{"NO_PROXY", "no_proxy"}
)

// always is never behind a proxy: this machine, and Services by their short names.
var always = []string{"localhost", "127.0.0.0/8", "::1", ".svc"}

// Exclude adds names, domains, addresses and ranges to the exceptions. It does nothing if
// the environment has no proxy.
func Exclude(what ...string) error {
	isEmpty := func(name string) bool { return os.Getenv(name) == "" }
	if !slices.ContainsFunc(proxies, func(name string) bool { return !isEmpty(name) }) {
		return nil
	}
	var value string
	for _, name := range slices.Backward(exceptions) {
		if given := os.Getenv(name); given != "" {
			value = given
		}
	}
	value = with(value, slices.Concat(always, what))
	for _, name := range exceptions {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// with appends to a list separated by commas what it does not contain.
func with(list string, what []string) string {
	var all []string
	for _, given := range append(strings.Split(list, ","), what...) {
		if given = strings.TrimSpace(given); given != "" && !slices.Contains(all, given) {
			all = append(all, given)
		}
	}
	return strings.Join(all, ",")
}

// Ranges returns ranges in the form that Exclude takes.
func Ranges(ranges ...[]netip.Prefix) []string {
	var out []string
	for _, r := range slices.Concat(ranges...) {
		out = append(out, r.String())
	}
	return out
}

// Addresses returns addresses in the form that Exclude takes.
func Addresses(addresses ...[]netip.Addr) []string {
	var out []string
	for _, a := range slices.Concat(addresses...) {
		out = append(out, a.String())
	}
	return out
}

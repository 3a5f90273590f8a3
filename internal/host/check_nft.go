package host

import (
	"fmt"
	"slices"
	"strings"
)

// minNFT is the first version that can load kube-proxy's rules: 1.0.1.
var minNFT = [2]int{1, 0}

// NFTFault says in a few words why the host's nft cannot serve a node. It is empty when
// it can.
func (f Facts) NFTFault() string {
	switch {
	case f.NFT == "":
		return "the program nft is not installed"
	case f.NFTVersion == "":
		return f.NFT + " does not tell its version"
	case f.NFTVersion == "1.0.0" || older(version(f.NFTVersion), minNFT):
		return fmt.Sprintf("%s is version %s, too old for services", f.NFT, f.NFTVersion)
	case !f.Protocols:
		// It then prints numbers, and kube-proxy, which looks for names, deletes the
		// Services that it has just added.
		return f.NFT + " cannot name protocols without /etc/protocols"
	}
	return ""
}

// checkNFT checks which nft the node will use. own is the version of the one that this
// build carries, empty if it carries none.
func checkNFT(f Facts, own string) Check {
	const name = "nft"
	fault := f.NFTFault()
	switch {
	case fault == "":
		return ok(name, "%s %s", f.NFT, f.NFTVersion)
	case own != "":
		return ok(name, "brink's own %s, as %s", own, fault)
	case f.NFT == "":
		return fail(name, installHint(f.Distribution, "nftables"), "%s, services need it", fault)
	case !f.Protocols:
		return fail(name, installHint(f.Distribution, "netbase"), "%s, services break", fault)
	}
	return fail(name, "update the package nftables to 1.0.1 or later", "%s", fault)
}

// hasProtocols reports whether the C library finds the name of TCP, as nft asks it to.
func (m machine) hasProtocols() bool {
	for line := range strings.Lines(m.read("etc/protocols")) {
		if fields := strings.Fields(line); len(fields) > 1 && slices.Equal(fields[:2], []string{"tcp", "6"}) {
			return true
		}
	}
	return false
}

// checkHosts checks the file from which every pod's own is copied.
func (m machine) checkHosts() Check {
	const name, file = "hosts file", "etc/hosts"
	if m.exists(file) {
		return ok(name, "/%s is there", file)
	}
	if err := writable(m.path("etc")); err != nil {
		return fail(name, "write 127.0.0.1 localhost into it", "there is no /%s, which every pod needs, and brink cannot make one (%v)", file, err)
	}
	return ok(name, "there is no /%s, brink makes one", file)
}

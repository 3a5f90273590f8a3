package main

import (
	"fmt"
	"path/filepath"

	"brink/internal/licenses"
)

// nftLibraries are what scripts/build-nft puts beside the program nft, with Debian's
// packages and the texts that these refer to.
var nftLibraries = []struct {
	name, pkg, license string
	texts              []string
}{
	{"nftables", "libnftables1", "GPL-2.0-only", []string{"GPL-2"}},
	{"libnftnl", "libnftnl11", "GPL-2.0-or-later", []string{"GPL-2"}},
	{"libmnl", "libmnl0", "LGPL-2.1-or-later", []string{"LGPL-2.1"}},
	{"jansson", "libjansson4", "MIT", nil},
	{"GMP", "libgmp10", "LGPL-3.0-or-later OR GPL-2.0-or-later", []string{"LGPL-3", "GPL-2", "GPL-3"}},
	{"iptables", "libxtables12", "GPL-2.0-or-later", []string{"GPL-2"}},
	{"glibc", "libc6", "LGPL-2.1-or-later", []string{"LGPL-2.1"}},
}

// addNFT adds what the program nft consists of, which is brink's in part.
func (c *collector) addNFT(arch, share string) error {
	for _, l := range nftLibraries {
		paths := []string{filepath.Join(share, "doc", l.pkg, "copyright")}
		for _, text := range l.texts {
			paths = append(paths, filepath.Join(share, "common-licenses", text))
		}
		texts, err := readAll(paths...)
		if err != nil {
			return fmt.Errorf("reading the licence of %s, which nft uses: %w", l.name, err)
		}
		version, err := output("dpkg-query", "-W", "-f", "${Version}", l.pkg+":"+debianArch(arch))
		if err != nil {
			return err
		}
		c.add("nft", licenses.Component{Name: l.name, Version: version, License: l.license,
			Note: "a shared library of Debian's, unchanged; its sources are those of Debian's package."}, texts...)
	}
	texts, err := readAll(filepath.Join("runtime", "payload", "build", "nft", "LICENSE"))
	if err != nil {
		return fmt.Errorf("reading the licence of nft: %w", err)
	}
	c.add("nft", licenses.Component{Name: "nft.c", License: "MIT", Note: "brink's own program around libnftables, a separate one because of that library's licence."}, texts...)
	return nil
}

// debianArch is Debian's name of an architecture.
func debianArch(arch string) string {
	if arch == "arm" {
		return "armhf"
	}
	return arch
}

// Command packages makes the .deb, .rpm and .apk of a brink binary. The same input gives
// the same bytes.
//
//	packages -version V -arch ARCH -time SECONDS -files DIRECTORY -out DIRECTORY
//
// -files holds brink, its units, the licences and the scripts that package managers run, as
// scripts/packaging/make lays them there.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/apk" // each of the three registers itself
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// options are the flags.
type options struct {
	version, arch, files, out, contact, url string
	seconds                                 int64
	quick                                   bool
}

func main() {
	var o options
	flag.StringVar(&o.version, "version", "", "brink's `VERSION`")
	flag.StringVar(&o.arch, "arch", "", "the `GOARCH` of the binary")
	flag.StringVar(&o.files, "files", "", "the `DIRECTORY` with what goes in")
	flag.StringVar(&o.out, "out", "", "the `DIRECTORY` for the packages")
	flag.StringVar(&o.contact, "contact", "", "who answers for the packages")
	flag.StringVar(&o.url, "url", "", "where brink is published")
	flag.Int64Var(&o.seconds, "time", 0, "when it was built, in `SECONDS` since 1970")
	flag.BoolVar(&o.quick, "quick", false, "compress quickly and badly")
	flag.Parse()
	for _, format := range []string{"deb", "rpm", "apk"} {
		if err := o.make(format); err != nil {
			fmt.Fprintf(os.Stderr, "packages: %s: %v\n", format, err)
			os.Exit(1)
		}
	}
}

var versionForm = regexp.MustCompile(`^v([0-9.]+)\+brink\.([0-9]+)(?:\.dev(?:\.([0-9]+))?.*)?$`)

// packageVersion writes a version as package managers sort it: a build on the way to a
// release comes before it. apk knows neither + nor ~.
func packageVersion(version, format string) (string, error) {
	m := versionForm.FindStringSubmatch(version)
	if m == nil {
		return "", fmt.Errorf("%q is not a version of brink", version)
	}
	kubernetes, number, isDev, at := m[1], m[2], regexp.MustCompile(`\.dev`).MatchString(version), m[3]
	if at == "" {
		at = "0"
	}
	switch {
	case format != "apk" && isDev:
		return kubernetes + "+brink." + number + "~dev." + at, nil
	case format != "apk":
		return kubernetes + "+brink." + number, nil
	case isDev:
		var before int
		fmt.Sscan(number, &before)
		return fmt.Sprintf("%s_p%d_git%s-r0", kubernetes, before-1, at), nil
	}
	return kubernetes + "_p" + number + "-r0", nil
}

func (o options) make(format string) error {
	version, err := packageVersion(o.version, format)
	if err != nil {
		return err
	}
	packager, err := nfpm.Get(format)
	if err != nil {
		return err
	}
	if err := o.dateScripts(); err != nil {
		return err
	}
	info := nfpm.WithDefaults(o.info(format, version))
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return err
	}
	path := filepath.Join(o.out, packager.ConventionalFileName(info))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(packager.Package(info, f), f.Close())
}

func (o options) info(format, version string) *nfpm.Info {
	info := &nfpm.Info{
		Name: "brink", Arch: nfpmArch(o.arch), Platform: "linux", Version: version, VersionSchema: "none",
		Section: "admin", Priority: "optional", Maintainer: o.contact, Homepage: o.url, License: "Apache-2.0",
		Description: "Kubernetes for the edge, in one program\n" +
			"A control plane, a node, or both in one process, with containerd, the pod network\nand the datastore.",
		MTime: time.Unix(o.seconds, 0).UTC(),
	}
	info.Contents = o.contents(format)
	info.Scripts = o.scripts()
	info.Deb.Compression = "zstd:19"
	if o.quick {
		info.Deb.Compression = "zstd:1"
	}
	info.RPM.Compression, info.RPM.BuildHost = info.Deb.Compression, "brink"
	if format == "rpm" {
		info.Release = "1"
	}
	if format == "deb" {
		info.Recommends = []string{"nftables"}
	}
	return info
}

// nfpmArch is how nfpm calls ARMv7; it knows each format's own words.
func nfpmArch(arch string) string {
	if arch == "arm" {
		return "arm7"
	}
	return arch
}

func (o options) contents(format string) files.Contents {
	file := func(from, to string, mode os.FileMode) *files.Content {
		return &files.Content{Source: filepath.Join(o.files, from), Destination: to, FileInfo: &files.ContentFileInfo{Mode: mode}}
	}
	out := files.Contents{
		file("brink", "/usr/bin/brink", 0o755),
		file("copyright", "/usr/share/doc/brink/copyright", 0o644),
	}
	if format == "apk" { // Alpine has openrc
		return append(out,
			file("brink.openrc", "/etc/init.d/brink", 0o755),
			file("brink-agent.openrc", "/etc/init.d/brink-agent", 0o755),
			file("brink-pods.openrc", "/etc/init.d/brink-pods", 0o755))
	}
	return append(out,
		file("brink.service", "/usr/lib/systemd/system/brink.service", 0o644),
		file("brink-agent.service", "/usr/lib/systemd/system/brink-agent.service", 0o644),
		file("brink-pods.service", "/usr/lib/systemd/system/brink-pods.service", 0o644)) // the others want it
}

// dateScripts gives the scripts the build's time: nfpm writes their own into an .apk.
func (o options) dateScripts() error {
	at := time.Unix(o.seconds, 0)
	s := o.scripts()
	var errs []error
	for _, path := range []string{s.PreInstall, s.PostInstall, s.PreRemove, s.PostRemove} {
		errs = append(errs, os.Chtimes(path, at, at))
	}
	return errors.Join(errs...)
}

func (o options) scripts() nfpm.Scripts {
	script := func(name string) string { return filepath.Join(o.files, name) }
	return nfpm.Scripts{PreInstall: script("preinst"), PostInstall: script("postinst"), PreRemove: script("prerm"), PostRemove: script("postrm")}
}

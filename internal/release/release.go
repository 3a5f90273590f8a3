// Package release knows how brink is published: the versions, the names of the files, where
// they lie on a web server, and how they are checked. `brink upgrade` downloads by it, and
// what scripts/release makes follows it.
//
// A release is a directory of files that any static web server can serve. SHA256SUMS in it
// names every other file, and the binaries as they are once unpacked. Its signature is
// Ed25519 over SHA256SUMS alone. Who has a good SHA256SUMS needs no other signature. One of
// the files holds the version, so that a server cannot give an older release, with holes that
// were mended since, for a newer one.
//
// A key of the release is the form that openssl prints between the lines of its PEM file:
// SubjectPublicKeyInfo, DER, base64. It is linked into the binary, so a brink that is
// installed checks what comes next. A build without a key says so (ErrNoKey). It is for its
// caller to refuse then, or to go on by sums alone.
//
// Binaries come as zstd, gzip and xz. Here zstd and gzip are read, which are linked anyway;
// xz is for the first install on machines that have nothing better.
package release

import "strings"

// These are set by the linker, see scripts/build.
var (
	version    = "dev"
	baseURL    = ""
	publicKeys = "" // base64, separated by commas; more than one while keys change
)

// BuiltAs returns the version of this binary as text. It is "dev" in a binary that
// scripts/build did not make.
func BuiltAs() string { return version }

// Current returns the version of this binary.
func Current() (Version, error) { return ParseVersion(version) }

// BaseURL returns where this binary was told that releases are published, empty if nowhere.
func BaseURL() string { return baseURL }

// Names of files of a release that are the same for all architectures.
const (
	SumsFile         = "SHA256SUMS"
	SignatureFile    = "SHA256SUMS.sig"    // 64 bytes, Ed25519
	SSHSignatureFile = "SHA256SUMS.sshsig" // the same by ssh-keygen -Y sign
	InstallScript    = "install.sh"
	VersionFile      = "VERSION" // one line, see Sums.CheckVersion
)

// BinaryFile returns the name of the binary for an architecture of Go, as it is unpacked.
func BinaryFile(arch string) string { return "brink-linux-" + arch }

// CompressedFile returns the name under which this package downloads the binary. The
// smallest is .xz, but zstd unpacks in a sixth of its time.
func CompressedFile(arch string) string { return BinaryFile(arch) + ".zst" }

// AirgapFile returns the name of the archive that is carried to where no network is.
func AirgapFile(arch string) string { return "brink-airgap-linux-" + arch + ".tar" }

// AirgapDirectory returns the one directory at the top of AirgapFile.
func AirgapDirectory(arch string, v Version) string {
	return strings.TrimSuffix(AirgapFile(arch), ".tar") + "-" + v.String()
}

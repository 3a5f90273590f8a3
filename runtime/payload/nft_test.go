package payload

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"brink/internal/testdisk"
)

// emptyMachine unpacks nft into a root that has nothing else: no libraries, no /etc.
func emptyMachine(t *testing.T) string {
	t.Helper()
	root := testdisk.Mount(t, "tmpfs", 0, "")
	must(t, os.Mkdir(filepath.Join(root, "data"), 0o755))
	must(t, os.Mkdir(filepath.Join(root, "proc"), 0o755))
	must(t, syscall.Mount("/proc", filepath.Join(root, "proc"), "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(filepath.Join(root, "proc"), syscall.MNT_DETACH)) })
	unpack(t, filepath.Join(root, "data"))
	return root
}

// runNFT runs brink's nft in root.
func runNFT(root, stdin string, args ...string) (string, error) {
	m, err := readManifest()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("/data/"+m.SHA256+"/nft/nft", args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("nft %v: %w: %s", args, err, out)
	}
	return string(out), err
}

// inNetns runs f on a thread in a network namespace of its own, which ends with it.
func inNetns(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	must(t, <-done)
}

// ownRules are some of kube-proxy's.
const ownRules = `add table ip kube-proxy
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add chain ip kube-proxy c
add element ip kube-proxy service-ips { 10.43.0.1 . tcp . 443 : goto c }
add element ip kube-proxy service-ips { 10.43.0.10 . udp . 53 : goto c }
add element ip kube-proxy service-ips { 10.43.0.11 . sctp . 5000 : goto c }
`

// TestOwnNFTNeedsNothingOfTheHost: what it lists, kube-proxy finds again only if protocols
// have their names, which elsewhere are those of /etc/protocols.
func TestOwnNFTNeedsNothingOfTheHost(t *testing.T) {
	t.Parallel()
	root := emptyMachine(t)
	var listed [2]string
	inNetns(t, func() error {
		version, err := runNFT(root, "", "--version")
		if want := "nftables v" + NFTVersion() + " "; !strings.HasPrefix(version, want) {
			t.Errorf("nft --version says %q, want %q", version, want)
		}
		out, checkErr := runNFT(root, ownRules, "--check", "-f", "-")
		if out != "" {
			t.Errorf("a check prints %q", out)
		}
		_, addErr := runNFT(root, ownRules, "-f", "-")
		var listErr, jsonErr error
		listed[0], listErr = runNFT(root, "", "list", "map", "ip", "kube-proxy", "service-ips")
		listed[1], jsonErr = runNFT(root, "", "--json", "list", "map", "ip", "kube-proxy", "service-ips")
		return errors.Join(err, checkErr, addErr, listErr, jsonErr)
	})
	for _, out := range listed {
		for _, protocol := range []string{"tcp", "udp", "sctp"} {
			if !strings.Contains(out, protocol) {
				t.Errorf("it lists no %s: %s", protocol, out)
			}
		}
	}
}

// TestOwnNFTSaysWhatIsWrong: knftables tells from the text whether something was not there.
func TestOwnNFTSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	root := emptyMachine(t)
	inNetns(t, func() error {
		for script, want := range map[string]string{
			"delete table ip none\n":             "No such file or directory",
			strings.Repeat("#\n", 1<<16) + "x y": "syntax error", // longer than a pipe
		} {
			if _, err := runNFT(root, script, "-f", "-"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the error is %v, want %q", err, want)
			}
		}
		if _, err := runNFT(root, ""); err == nil || !strings.Contains(err.Error(), "Usage") {
			t.Errorf("without a command it says %v", err)
		}
		return nil
	})
}

// TestOwnNFTHasItsLicences: each library's, the texts that they name, and where the
// sources are.
func TestOwnNFTHasItsLicences(t *testing.T) {
	t.Parallel()
	docs, libraries := map[string]bool{}, 0
	for _, f := range nftFiles(embedded(t)) {
		docs[f.Path] = strings.HasPrefix(f.Path, "nft/doc/") && f.Size > 0
		if strings.Contains(f.Path, ".so") {
			libraries++
		}
	}
	for _, name := range []string{"libc6.copyright", "libgmp10.copyright", "libjansson4.copyright", "libmnl0.copyright", "libnftables1.copyright",
		"libnftnl11.copyright", "libxtables12.copyright", "nft.copyright", "SOURCES", "GPL-2", "GPL-3", "LGPL-2.1", "LGPL-3"} {
		if !docs["nft/doc/"+name] {
			t.Errorf("%s is missing", name)
		}
	}
	if libraries != 8 { // those above, and the linker is libc6's
		t.Errorf("%d libraries, and the licences of 7 packages are looked for", libraries)
	}
}

func TestUnpackNFT(t *testing.T) {
	t.Parallel()
	for _, root := range []string{t.TempDir(), filepath.Join(t.TempDir(), "not-there")} {
		dir, remove, err := UnpackNFT(root)
		must(t, err)
		if _, err := os.Stat(root); err == nil != strings.HasPrefix(dir, root) {
			t.Errorf("with %s it is in %s", root, dir)
		}
		if out := output(filepath.Join(dir, "nft"), "--version"); !strings.Contains(string(out), NFTVersion()) {
			t.Errorf("it says %q", out)
		}
		remove()
		if _, err := os.Stat(filepath.Dir(dir)); err == nil {
			t.Errorf("%s is still there", dir)
		}
	}
}

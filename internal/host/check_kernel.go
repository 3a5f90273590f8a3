package host

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
)

// feature is a feature of the kernel that may be built in, a module, or missing.
type feature struct {
	name   string // of the check
	module string
	config string // of the kernel, without CONFIG_
	needed string // what for
	// sign is a file that exists only where the feature does, if there is such a file.
	sign string
}

var features = []feature{
	{"overlayfs", "overlay", "OVERLAY_FS", "images", ""},
	{"veth", "veth", "VETH", "pods' network interfaces", ""},
	{"bridge", "bridge", "BRIDGE", "the pod network", ""},
	{"bridge netfilter", "br_netfilter", "BRIDGE_NETFILTER", "services between pods of one node", bridgeNetfilter},
	{"nf_tables", "nf_tables", "NF_TABLES", "services", ""},
	{"nf_tables nat", "nft_nat", "NFT_NAT", "services", ""},
	{"nf_tables ct", "nft_ct", "NFT_CT", "services", ""},
	{"nf_tables numgen", "nft_numgen", "NFT_NUMGEN", "services with several pods", ""},
	{"nf_tables fib", "nft_fib_ipv4", "NFT_FIB_IPV4", "NodePorts", ""},
	{"nf_tables reject", "nft_reject_ipv4", "NFT_REJECT_IPV4", "services without pods", ""},
	{"nf_tables masquerade", "nft_masq", "NFT_MASQ", "pods reaching other networks", ""},
}

var vxlan = feature{"vxlan", "vxlan", "VXLAN", "the pod network between nodes", ""}

func (m machine) checkFeatures(f Facts, withVXLAN bool) []Check {
	wanted := features
	if withVXLAN {
		wanted = append(wanted[:len(wanted):len(wanted)], vxlan)
	}
	k := m.kernelFiles(f.Kernel)
	var checks []Check
	for _, feature := range wanted {
		check := m.checkFeature(f, k, feature)
		if feature == vxlan && check.Result == Fail {
			check.Result = Warn // a node without peers, or with direct routes, does not need it
		}
		checks = append(checks, check)
	}
	return checks
}

func (m machine) checkFeature(f Facts, k kernelFiles, want feature) Check {
	if want.sign != "" && m.exists(want.sign) {
		return ok(want.name, "%s is there", want.module)
	}
	if want.sign == "" && m.exists("sys/module/"+want.module) {
		return ok(want.name, "%s is loaded", want.module)
	}
	switch k.origin(want) {
	case builtin:
		return ok(want.name, "%s is built into the kernel", want.module)
	case loadable:
		out, err := m.run("", "modprobe", want.module)
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return fail(want.name, installHint(f.Distribution, "kmod"),
				"the kernel module %s cannot be loaded, it is needed for %s, and modprobe is not installed", want.module, want.needed)
		case err != nil:
			return fail(want.name, "run modprobe "+want.module+" outside of a container, or see what keeps it from loading",
				"the kernel module %s cannot be loaded (%s), it is needed for %s", want.module, firstLine(out, err), want.needed)
		}
		return ok(want.name, "%s is loaded", want.module)
	case absent:
		return fail(want.name, moduleHint(f, want),
			"the kernel %s has no %s, it is needed for %s", k.release, want.module, want.needed)
	}
	return ok(want.name, "cannot be told for this kernel, assumed to be there")
}

func firstLine(out string, err error) string {
	if line, _, _ := strings.Cut(out, "\n"); line != "" {
		return line
	}
	return err.Error()
}

// origin says where a feature of the kernel is.
type origin int

const (
	unknown origin = iota
	builtin
	loadable
	absent
)

// kernelFiles are the files that describe the running kernel. What is missing is empty.
type kernelFiles struct {
	release       string
	builtin, dep  string // modules.builtin and modules.dep
	configuration string
}

func (m machine) kernelFiles(release string) kernelFiles {
	modules := "lib/modules/" + release + "/"
	if !m.exists(modules) {
		modules = "usr/" + modules
	}
	return kernelFiles{
		release:       release,
		builtin:       m.read(modules + "modules.builtin"),
		dep:           m.read(modules + "modules.dep"),
		configuration: m.kernelConfig(release),
	}
}

// origin consults the module directory of the running kernel, which is exact, and then
// the configuration that the kernel may contain or a package may have installed.
func (k kernelFiles) origin(want feature) origin {
	switch {
	case hasModule(k.builtin, want.module):
		return builtin
	case hasModule(k.dep, want.module):
		return loadable
	case strings.Contains(k.configuration, "\nCONFIG_"+want.config+"=y\n"):
		return builtin
	case strings.Contains(k.configuration, "\nCONFIG_"+want.config+"=m\n") && k.dep == "":
		return unknown // perhaps its modules are somewhere that is not visible here
	case k.configuration != "" || k.dep != "":
		return absent
	}
	return unknown
}

// hasModule reports whether there is a line like "kernel/net/vxlan/vxlan.ko.xz: ...".
func hasModule(list, module string) bool {
	for line := range strings.Lines(list) {
		file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		base, _, isModule := strings.Cut(path.Base(file), ".ko")
		if isModule && strings.ReplaceAll(base, "-", "_") == module {
			return true
		}
	}
	return false
}

func (m machine) kernelConfig(kernel string) string {
	if f, err := os.Open(m.path("proc/config.gz")); err == nil {
		defer f.Close()
		if z, err := gzip.NewReader(f); err == nil {
			text, _ := io.ReadAll(z)
			return "\n" + string(text)
		}
	}
	if text := m.read("boot/config-" + kernel); text != "" {
		return "\n" + text + "\n"
	}
	return ""
}

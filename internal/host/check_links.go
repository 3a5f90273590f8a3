package host

import (
	"cmp"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Names of the links that brink makes, as patterns for those who manage links. Some
// managers ask for an address on every link that comes: a pod is then cut off, and one
// version of dhcpcd even replaces the default route.
const (
	podLinks = "veth*"
	ownLinks = "brink*"
)

// examples are two links that the patterns stand for.
var examples = []string{"veth1a2b3c4d", "brink0"}

// NetworkManagerFile is where brink tells NetworkManager to leave its links alone.
const NetworkManagerFile = "/etc/NetworkManager/conf.d/90-brink.conf"

// NetworkManagerText is what it says there.
const NetworkManagerText = "# Written by brink and removed by brink uninstall.\n[keyfile]\nunmanaged-devices+=interface-name:" + podLinks + ";interface-name:" + ownLinks + "\n"

// checkNetworkManager checks whether brink can write its file. NetworkManager leaves pods'
// links alone by a rule for udev, but not where its own configuration says which links are
// not managed.
func (m machine) checkNetworkManager() Check {
	const name = "NetworkManager"
	dir := path.Dir(NetworkManagerFile)
	switch {
	case len(m.running("NetworkManager")) == 0:
		return ok(name, "does not run")
	case m.exists(NetworkManagerFile):
		return ok(name, "leaves brink's links alone, by %s", NetworkManagerFile)
	}
	if err := writable(m.path(dir)); err != nil {
		return warn(name, "put into a file there: [keyfile] and in the next line unmanaged-devices+=interface-name:"+podLinks+";interface-name:"+ownLinks,
			"NetworkManager may take the links of pods, and brink cannot write to %s (%v)", dir, err)
	}
	return ok(name, "brink tells it by %s to leave its links alone", NetworkManagerFile)
}

func (m machine) checkDHCPCD() Check {
	const name, file = "dhcpcd", "etc/dhcpcd.conf"
	if len(m.running("dhcpcd")) == 0 {
		return ok(name, "does not run")
	}
	for line := range strings.Lines(m.read(file)) {
		words := strings.Fields(line)
		if len(words) > 1 && (words[0] == "allowinterfaces" || words[0] == "denyinterfaces" && matchesAll(splitCommas(words[1:]))) {
			return ok(name, "leaves brink's links alone")
		}
	}
	return warn(name, "add the line denyinterfaces "+podLinks+" "+ownLinks+" to /"+file+" and restart it, as by: systemctl restart dhcpcd",
		"dhcpcd takes the links of pods, and may replace the default route when a pod starts")
}

func splitCommas(words []string) []string {
	return strings.FieldsFunc(strings.Join(words, ","), func(r rune) bool { return r == ',' })
}

// matchesAll reports whether each of the example links matches one of the patterns.
func matchesAll(patterns []string) bool {
	return !slices.ContainsFunc(examples, func(link string) bool { return !matches(patterns, link) })
}

func matches(patterns []string, link string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, link)
		return err == nil && ok
	})
}

// networkdFile is the file to write for systemd-networkd. It comes before others.
const networkdFile = "/etc/systemd/network/05-brink.network"

func (m machine) checkNetworkd() Check {
	const name = "systemd-networkd"
	if len(m.running("systemd-network")) == 0 || !m.exists("run/systemd/netif") {
		return ok(name, "does not run")
	}
	for _, link := range examples {
		if file := m.networkdTakes(link); file != "" {
			return warn(name, "write "+networkdFile+" with the four lines [Match], Name="+podLinks+" "+ownLinks+", [Link], Unmanaged=yes, as by: printf '[Match]\\nName="+
				podLinks+" "+ownLinks+"\\n[Link]\\nUnmanaged=yes\\n' >"+networkdFile+" && networkctl reload",
				"systemd-networkd takes the links of pods, by %s", file)
		}
	}
	return ok(name, "leaves brink's links alone")
}

// networkdTakes returns the file by which systemd-networkd manages a link, empty if it
// leaves it alone. The first file by name counts, in whichever directory.
func (m machine) networkdTakes(link string) string {
	var files []string
	for _, dir := range []string{"etc", "run", "usr/lib", "lib"} {
		found, _ := filepath.Glob(m.path(dir + "/systemd/network/*.network"))
		files = append(files, found...)
	}
	slices.SortStableFunc(files, func(a, b string) int { return cmp.Compare(filepath.Base(a), filepath.Base(b)) })
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || !networkdMatches(string(text), link) {
			continue
		}
		if unmanaged := sectionOf(string(text), "Link")["Unmanaged"]; len(unmanaged) > 0 && slices.Contains([]string{"yes", "true", "on", "1"}, unmanaged[0]) {
			return ""
		}
		return "/" + strings.TrimPrefix(strings.TrimPrefix(file, m.root), "/")
	}
	return ""
}

// networkdMatches reports whether a file is for a link of a pod or a bridge, as far as that
// can be told: a match by anything but the name and the type is of other links.
func networkdMatches(text, link string) bool {
	match := sectionOf(text, "Match")
	for key := range match {
		if key != "Name" && key != "Type" {
			return false
		}
	}
	names, types := match["Name"], match["Type"]
	if len(names) == 0 && len(types) == 0 {
		return false
	}
	return (len(names) == 0 || matches(names, link)) && (len(types) == 0 || matches(types, "ether"))
}

// sectionOf returns the words of each key in a section of a file of systemd's.
func sectionOf(text, section string) map[string][]string {
	out := map[string][]string{}
	in := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			in = strings.TrimSuffix(name, "]")
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && in == section && !strings.HasPrefix(line, "#") {
			key = strings.TrimSpace(key)
			out[key] = append(out[key], strings.Fields(value)...)
		}
	}
	return out
}

package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/validation"

	"brink/internal/wire/nodeuser"
	"brink/network/nodeaddr"
)

// values returns the values of a list flag whose values contain no comma: one may hold
// several, separated by commas.
func values(c *cli.Context, name string) []string {
	var out []string
	for _, v := range c.StringSlice(name) {
		for _, part := range strings.Split(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

func addresses(c *cli.Context, name string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, v := range values(c, name) {
		a, err := netip.ParseAddr(v)
		if err != nil {
			return nil, fmt.Errorf("--%s=%s: not an IP address", name, v)
		}
		out = append(out, a)
	}
	return out, nil
}

func prefixes(c *cli.Context, name string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, v := range values(c, name) {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return nil, fmt.Errorf("--%s=%s: not a range such as 10.42.0.0/16", name, v)
		}
		out = append(out, p)
	}
	return out, nil
}

func dataDir(c *cli.Context) (string, error) {
	dir, err := filepath.Abs(c.String("data-dir"))
	if err != nil || c.String("data-dir") == "" {
		return "", fmt.Errorf("--data-dir=%s: not a path", c.String("data-dir"))
	}
	return dir, nil
}

// nodeName returns the name that is given, else the host's. A check of the host refuses
// one that is too long.
func nodeName(given string) (string, error) {
	name, flag := given, "--node-name="+given
	if given == "" {
		hostname, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("reading the host name: %w; give --node-name", err)
		}
		name, flag = strings.ToLower(hostname), "host name "+hostname
	}
	if !nodeuser.HasNodeNameForm(name) {
		return "", fmt.Errorf("%s: not usable as a node name: lower-case letters, digits, '-' and '.' only; give --node-name", flag)
	}
	return name, nil
}

// onePerFamily refuses a second IPv4 or IPv6 address: the network and Kubernetes take one
// of each for a node.
func onePerFamily(flag string, ips []netip.Addr) error {
	for i, a := range ips {
		for _, b := range ips[:i] {
			if a.Is4() == b.Is4() {
				return fmt.Errorf("--%s=%s,%s: two addresses of one family: give at most one IPv4 and one IPv6", flag, b, a)
			}
		}
	}
	return nil
}

// reachable refuses an address that no other machine can send to.
func reachable(flag string, a netip.Addr) error {
	if !nodeaddr.IsRoutable(a) {
		return fmt.Errorf("--%s=%s: other machines cannot send to it", flag, a)
	}
	return nil
}

// advertised returns --advertise-address, the zero Addr when it is not given.
func advertised(c *cli.Context) (netip.Addr, error) {
	text := c.String("advertise-address")
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, fmt.Errorf("--advertise-address=%s: not an IP address", text)
	}
	return a, reachable("advertise-address", a)
}

// clusterDNS returns the addresses given, else the tenth of the first service range.
func clusterDNS(c *cli.Context, services []netip.Prefix) ([]netip.Addr, error) {
	given, err := addresses(c, "cluster-dns")
	if err != nil || len(given) > 0 || len(services) == 0 {
		return given, err
	}
	a := services[0].Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	if !services[0].Contains(a) {
		return nil, fmt.Errorf("--service-cidr=%s: too small for a cluster DNS at its tenth address; give --cluster-dns", services[0])
	}
	return []netip.Addr{a}, nil
}

// checkLabels refuses what is not KEY=VALUE as Kubernetes takes it.
func checkLabels(labels []string) error {
	var errs []error
	for _, label := range labels {
		key, value, ok := strings.Cut(label, "=")
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if !ok || len(problems) > 0 {
			errs = append(errs, fmt.Errorf("--node-label=%s: not a label such as zone=north", label))
		}
	}
	return errors.Join(errs...)
}

// checkTaints refuses what is not KEY[=VALUE]:EFFECT.
func checkTaints(taints []string) error {
	var errs []error
	for _, taint := range taints {
		rest, effect, _ := strings.Cut(taint, ":")
		key, value, _ := strings.Cut(rest, "=")
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if len(problems) > 0 || !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, effect) {
			errs = append(errs, fmt.Errorf("--node-taint=%s: not a taint such as dedicated=till:NoSchedule (or PreferNoSchedule, NoExecute)", taint))
		}
	}
	return errors.Join(errs...)
}

func fileMode(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("--write-kubeconfig-mode=%s: not an octal file mode such as 600 or 644", text)
	}
	return fs.FileMode(mode), nil
}

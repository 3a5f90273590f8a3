package cmd

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/internal/testerror"
)

func TestNodeName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "edge-1", "edge-1.example.org", "1"} {
		if got, err := nodeName(name); err != nil || got != name {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
	for _, name := range []string{"Edge", "edge_1", "-edge", "edge.", "edge 1", "käse"} {
		_, err := nodeName(name)
		testerror.OneLine(t, err, "--node-name="+name+": not usable as a node name")
	}
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	switch got, err := nodeName(""); {
	case err != nil:
		testerror.OneLine(t, err, hostname)
	case got != strings.ToLower(hostname):
		t.Errorf("the default is %q, the host is %q", got, hostname)
	}
}

func TestFileMode(t *testing.T) {
	t.Parallel()
	good := map[string]fs.FileMode{"600": 0o600, "0644": 0o644, "777": 0o777, "0": 0}
	for text, want := range good {
		if got, err := fileMode(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "888", "rw-------", "0o600", "-1", "1777", "6000"} {
		_, err := fileMode(text)
		testerror.OneLine(t, err, "--write-kubeconfig-mode="+text+": not an octal file mode")
	}
}

// TestVerbosity: no flag reaches the level at which clients log Secrets.
func TestVerbosity(t *testing.T) {
	t.Parallel()
	for want, args := range map[int][]string{
		0: {"--kubelet-arg=cgroup-root=/a"},
		5: {"--kubelet-arg=v=3", "--kube-apiserver-arg=--v=5"},
		7: {"--kubelet-arg=v=10"},
	} {
		withFlags(t, args, func(c *cli.Context) {
			if got := verbosity(c); got != want {
				t.Errorf("%q: got %d, want %d", args, got, want)
			}
		})
	}
}

func TestClusterDNS(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		args     []string
		services string
		want     string // addresses, or a part of the error
	}{
		{"tenth address", nil, "10.43.0.0/16", "[10.43.0.10]"},
		{"host bits do not count", nil, "10.43.7.7/16", "[10.43.0.10]"},
		{"IPv6", nil, "fd43::/112", "[fd43::a]"},
		{"of the first range", nil, "fd43::/112 10.43.0.0/16", "[fd43::a]"},
		{"smallest", nil, "10.43.0.0/28", "[10.43.0.10]"},
		{"too small", nil, "10.43.0.0/29", "--service-cidr=10.43.0.0/29: too small"},
		{"given", []string{"--cluster-dns=10.43.0.53,fd43::53"}, "10.43.0.0/16", "[10.43.0.53 fd43::53]"},
		{"given for a small range", []string{"--cluster-dns=10.43.0.2"}, "10.43.0.0/29", "[10.43.0.2]"},
		{"not an address", []string{"--cluster-dns=dns"}, "10.43.0.0/16", "--cluster-dns=dns: not an IP address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var services []netip.Prefix
			for _, text := range strings.Fields(tt.services) {
				services = append(services, netip.MustParsePrefix(text))
			}
			withFlags(t, tt.args, func(c *cli.Context) {
				got, err := clusterDNS(c, services)
				if err != nil {
					testerror.OneLine(t, err, tt.want)
				} else if fmt.Sprint(got) != tt.want {
					t.Errorf("got %v, want %s", got, tt.want)
				}
			})
		})
	}
}

// plausible are flags that leave nothing to be asked of the machine.
var plausible = []string{"--node-name=edge-1", "--node-ip=192.0.2.1", "--data-dir=/srv/edge"}

func TestReadSettings(t *testing.T) {
	t.Parallel()
	args := append(plausible, "--kubelet-arg=eviction-hard=memory.available<1Mi,nodefs.available<1%", "--tls-san=a.example.org,b.example.org")
	withFlags(t, args, func(c *cli.Context) {
		s, err := readServer(c)
		if err != nil {
			t.Fatal(err)
		}
		if s.Layout.Data() != "/srv/edge" || s.Server.NodeName != "edge-1" || s.Agent.NodeName != "edge-1" || s.Server.Port != 6443 {
			t.Errorf("got %+v", s.Server)
		}
		if got := fmt.Sprint(s.Server.ClusterCIDRs, s.Server.ServiceCIDRs, s.Agent.Access.ClusterDNS, s.Server.TLSSANs); got != "[10.42.0.0/16] [10.43.0.0/16] [10.43.0.10] [a.example.org b.example.org]" {
			t.Errorf("got %s", got)
		}
		// A comma in what is passed through belongs to the value.
		if got := s.Agent.KubeletArgs; len(got) != 1 {
			t.Errorf("one kubelet argument has become %q", got)
		}
	})
}

// TestNodesThatCannotWork has what otherwise only the pod network would find, long after
// the start.
func TestNodesThatCannotWork(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		want string // of the error, "" for none
		args []string
	}{
		{"", []string{"--node-ip=192.0.2.1,2001:db8::1"}},
		{"--node-ip=192.0.2.1,192.0.2.2: two addresses of one family", []string{"--node-ip=192.0.2.1,192.0.2.2"}},
		{"--node-ip=2001:db8::1,2001:db8::2: two addresses of one family", []string{"--node-ip=192.0.2.1,2001:db8::1,2001:db8::2"}},
		{"--node-ip=127.0.0.1: other machines cannot send to it", []string{"--node-ip=127.0.0.1"}},
		{"", []string{"--node-ip=127.0.0.1", "--disable-agent"}},
		{"--data-dir=/opt/a:b: a path with a colon in it", []string{"--node-ip=192.0.2.1", "--data-dir=/opt/a:b"}},
		{"", []string{"--node-ip=192.0.2.1", "--data-dir=/opt/a b,c'd"}},
		{"", []string{"--node-ip=192.0.2.1", "--data-dir=/opt/a:b", "--disable-agent"}},
	} {
		withFlags(t, append([]string{"--node-name=edge-1"}, tc.args...), func(c *cli.Context) {
			_, err := readServer(c)
			if tc.want == "" && err != nil {
				t.Errorf("%q: %v", tc.args, err)
			} else if tc.want != "" {
				testerror.OneLine(t, err, tc.want)
			}
		})
	}
	args := []string{"--node-name=edge-1", "--server=https://192.0.2.9", "--node-ip=192.0.2.1", "--data-dir=/opt/a:b"}
	withAgentFlags(t, args, func(c *cli.Context) { // a machine that joins reads the same
		_, err := readAgent(c)
		testerror.OneLine(t, err, "a path with a colon in it")
	})
}

// TestAdvertisedAddress is about the address by which agents and pods reach the API server.
func TestAdvertisedAddress(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, want string }{
		{"", "<nil> invalid IP []"},
		{"--node-external-ip=203.0.113.7,2001:db8::7", "<nil> invalid IP [203.0.113.7 2001:db8::7]"},
		{"--advertise-address=203.0.113.8", "<nil> 203.0.113.8 []"},
		{"--advertise-address=here", "--advertise-address=here: not an IP address"},
		{"--advertise-address=127.0.0.1", "--advertise-address=127.0.0.1: other machines cannot send to it"},
		{"--node-external-ip=0.0.0.0", "--node-external-ip=0.0.0.0: other machines cannot send to it"},
		{"--advertise-address=2001:db8::7", "--advertise-address=2001:db8::7: must be of the same family as the first --service-cidr, 10.43.0.0/16 2001:db8::7 []"},
		{"--cluster-cidr=192.0.2.0/24", "this machine cannot be a node with the address 192.0.2.1: 192.0.2.0/24 has the addresses of pods or services: give another --node-ip, or other ranges with --cluster-cidr and --service-cidr invalid IP []"},
		{"--cluster-cidr=192.0.2.0/24 --disable-agent", "<nil> invalid IP []"},
		{"--kube-apiserver-arg=advertise-address=203.0.113.8", "--kube-apiserver-arg=advertise-address=203.0.113.8: use brink's own --advertise-address"},
	} {
		withFlags(t, append(plausible, strings.Fields(tt.args)...), func(c *cli.Context) {
			s, err := readServer(c)
			got := fmt.Sprint(err)
			if err == nil {
				got = fmt.Sprint(s.Server.Validate(), " ", s.Server.AdvertiseAddress, " ", s.Server.ExternalIPs)
			}
			if got != tt.want {
				t.Errorf("%s: got %s, want %s", tt.args, got, tt.want)
			}
		})
	}
}

func TestReadSettingsTellsAllMistakes(t *testing.T) {
	t.Parallel()
	long := "/" + strings.Repeat("d", 100)
	args := []string{"--node-name=Edge", "--node-ip=here", "--bind-address=all", "--cluster-cidr=10.42.0.0", "--write-kubeconfig-mode=rw", "--data-dir=" + long}
	withFlags(t, args, func(c *cli.Context) {
		_, err := readServer(c)
		lines := strings.Split(fmt.Sprint(err), "\n")
		if len(lines) != len(args) {
			t.Errorf("got %d lines for %d mistakes:\n%v", len(lines), len(args), err)
		}
		for _, arg := range args {
			if !strings.Contains(err.Error(), arg) {
				t.Errorf("nothing about %s in:\n%v", arg, err)
			}
		}
	})
}

func TestLongDataDirWithoutAgent(t *testing.T) {
	t.Parallel()
	args := append(plausible, "--disable-agent", "--data-dir=/"+strings.Repeat("d", 100))
	withFlags(t, args, func(c *cli.Context) {
		if _, err := readServer(c); err != nil {
			t.Errorf("without pods there is no kubelet whose sockets must fit: %v", err)
		}
	})
}

// TestConfigFilePrecedence: flags win over the environment, both over the file.
func TestConfigFilePrecedence(t *testing.T) {
	t.Setenv("BRINK_CLUSTER_DOMAIN", "of.environment")
	config := filepath.Join(t.TempDir(), "config.yaml")
	text := "cluster-domain: of.file\nnode-name: of-file\nhttps-listen-port: 7443\ntls-san: [a, b]\ndisable-agent: true\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	withFlags(t, []string{"--config", config, "--node-name=of-flag"}, func(c *cli.Context) {
		got := fmt.Sprint(c.String("node-name"), " ", c.String("cluster-domain"), " ", c.Int("https-listen-port"), " ", c.StringSlice("tls-san"), " ", c.Bool("disable-agent"))
		if want := "of-flag of.environment 7443 [a b] true"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

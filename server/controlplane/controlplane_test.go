package controlplane

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"brink/internal/testaddr"
	"brink/server/inmemory"
	"brink/server/pki"
)

// plausible is a configuration as package server makes it; its files do not
// exist.
func plausible() Config {
	return Config{
		BindAddress:      netip.MustParseAddr("0.0.0.0"),
		Port:             6443,
		AdvertiseAddress: netip.MustParseAddr("192.0.2.1"),
		ClusterCIDRs:     testaddr.Prefixes("10.42.0.0/16"),
		ServiceCIDRs:     testaddr.Prefixes("10.43.0.0/16"),
		ClusterDomain:    "cluster.local",
		DurableEndpoint:  "unix:///run/brink/datastore/durable.sock",
		VolatileEndpoint: "unix:///run/brink/datastore/volatile.sock",
		Files:            files("/nowhere"),
		VolumePlugins:    "/nowhere",
	}
}

func files(dir pki.Dir) Files {
	return Files{
		ServerCA: dir.ServerCA(), ServerCAKey: dir.Key(pki.ServerCA),
		KubeletCA: dir.KubeletCA(), KubeletCAKey: dir.Key(pki.KubeletCA),
		ClientCA: dir.ClientCA(), ClientCAKey: dir.Key(pki.ClientCA),
		RequestHeaderCA: dir.RequestHeaderCA(),
		ServingCert:     dir.Cert(pki.ServingAPIServer), ServingKey: dir.Key(pki.ServingAPIServer),
		KubeletClientCert: dir.Cert(pki.ClientAPIServer), KubeletClientKey: dir.Key(pki.ClientAPIServer),
		ProxyClientCert: dir.Cert(pki.ClientAuthProxy), ProxyClientKey: dir.Key(pki.ClientAuthProxy),
		ServiceAccountKey: dir.ServiceKey(),
	}
}

func TestNewTakesItsDefaults(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"IPv4": func(*Config) {},
		"IPv6": func(c *Config) {
			c.AdvertiseAddress, c.BindAddress = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::")
			c.ClusterCIDRs, c.ServiceCIDRs = testaddr.Prefixes("fd42::/56"), testaddr.Prefixes("fd43::/112")
		},
		"dual stack": func(c *Config) {
			c.ClusterCIDRs, c.ServiceCIDRs = testaddr.Prefixes("10.42.0.0/16", "fd42::/56"), testaddr.Prefixes("10.43.0.0/16", "fd43::/112")
		},
		"small": func(c *Config) { c.ClusterCIDRs = testaddr.Prefixes("10.42.0.0/26") },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := plausible()
			change(&cfg)
			if _, err := New(cfg); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAPIServerAcceptsItsOptions takes the defaults through upstream's Complete
// and Validate, which a start does and New cannot: they read certificates.
func TestAPIServerAcceptsItsOptions(t *testing.T) {
	cfg := plausible()
	dir := t.TempDir()
	_, err := pki.Ensure(pki.Config{
		Dir: dir, ClusterDomain: cfg.ClusterDomain, NodeName: "node",
		NodeIPs: []netip.Addr{cfg.AdvertiseAddress}, ServiceIPs: []netip.Addr{netip.MustParseAddr("10.43.0.1")},
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Files = files(pki.Dir(dir))
	cp, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	completed, err := cp.apiServer.options.Complete(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range completed.Validate() {
		t.Error(err)
	}
	if got := completed.GenericServerRunOptions.AdvertiseAddress.String(); got != "192.0.2.1" {
		t.Errorf("advertises %s", got)
	}
	if completed.Authentication.Anonymous.Allow {
		t.Error("anonymous requests are let in")
	}
	if got := completed.Authorization.Modes; !slices.Equal(got, []string{"Node", "RBAC"}) {
		t.Errorf("authorization modes are %q", got)
	}
	for _, plugin := range []string{"NodeRestriction", nodeClaimsPlugin} {
		if generic := completed.Admission.GenericAdmission; generic.DefaultOffPlugins.Has(plugin) || !slices.Contains(generic.RecommendedPluginOrder, plugin) {
			t.Errorf("%s is off", plugin)
		}
	}
	if got := completed.Audit.LogOptions.Path + completed.Audit.PolicyFile; got != "" {
		t.Errorf("audit is on: %s", got)
	}
}

func TestControllerDefaultsTakeEffect(t *testing.T) {
	cfg := plausible()
	cfg.ControllerArgs = []string{"concurrent-gc-syncs=3"}
	cp, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	opts := cp.controllers.options
	if !opts.KubeCloudShared.AllocateNodeCIDRs || opts.KubeCloudShared.ClusterCIDR != "10.42.0.0/16" || opts.NodeIPAMController.ServiceCIDR != "10.43.0.0/16" {
		t.Errorf("address ranges: %t %q %q", opts.KubeCloudShared.AllocateNodeCIDRs, opts.KubeCloudShared.ClusterCIDR, opts.NodeIPAMController.ServiceCIDR)
	}
	if opts.GarbageCollectorController.ConcurrentGCSyncs != 3 {
		t.Errorf("the user's 3 workers are %d", opts.GarbageCollectorController.ConcurrentGCSyncs)
	}
	if opts.Generic.LeaderElection.LeaderElect || cp.scheduler.options.LeaderElection.LeaderElect {
		t.Error("one of the two elects a leader")
	}
	if opts.SecureServing.BindPort != 0 || cp.scheduler.options.SecureServing.BindPort != 0 {
		t.Error("one of the two opens a port of its own")
	}
}

func TestNodeMasks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		cidrs []netip.Prefix
		want  []string
	}{
		{testaddr.Prefixes("10.42.0.0/16"), []string{"node-cidr-mask-size=24"}},
		{testaddr.Prefixes("10.0.0.0/8"), []string{"node-cidr-mask-size=24"}},
		{testaddr.Prefixes("10.42.1.0/24"), []string{"node-cidr-mask-size=24"}},
		{testaddr.Prefixes("10.42.1.0/26"), []string{"node-cidr-mask-size=26"}}, // one node has all of it
		{testaddr.Prefixes("fd42::/56"), []string{"node-cidr-mask-size=64"}},
		{testaddr.Prefixes("fd42::/48"), []string{"node-cidr-mask-size=64"}},
		{testaddr.Prefixes("fd42::/40"), []string{"node-cidr-mask-size=56"}}, // upstream takes 2^16 nodes at most
		{testaddr.Prefixes("fd42::/112"), []string{"node-cidr-mask-size=112"}},
		{testaddr.Prefixes("10.42.0.0/16", "fd42::/56"), []string{"node-cidr-mask-size-ipv4=24", "node-cidr-mask-size-ipv6=64"}},
		{testaddr.Prefixes("fd42::/56", "10.42.1.0/25"), []string{"node-cidr-mask-size-ipv6=64", "node-cidr-mask-size-ipv4=25"}},
	}
	for _, tt := range tests {
		if got := nodeMasks(Config{ClusterCIDRs: tt.cidrs}); !slices.Equal(got, tt.want) {
			t.Errorf("%v: got %q, want %q", tt.cidrs, got, tt.want)
		}
	}
}

func TestFailing(t *testing.T) {
	t.Parallel()
	report := "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\n[-]informer-sync failed: 2 informers\nreadyz check failed\n"
	want := []string{"etcd failed: reason withheld", "informer-sync failed: 2 informers"}
	if got := failing(report); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestIdentities: who clients inside the process are.
func TestIdentities(t *testing.T) {
	t.Parallel()
	node := identity("system:node:one", "system:nodes")
	if node.GetName() != "system:node:one" || !slices.Equal(node.GetGroups(), []string{"system:nodes", user.AllAuthenticated}) {
		t.Errorf("a node is %s in %q", node.GetName(), node.GetGroups())
	}
	got, agent := asked(t, controllerClients{&inmemory.Server{}}, "job-controller")
	if got.GetName() != "system:serviceaccount:kube-system:job-controller" || !strings.Contains(agent, "job-controller") {
		t.Errorf("a controller is %s and its agent %q", got.GetName(), agent)
	}
	groups := slices.Sorted(slices.Values(got.GetGroups()))
	if want := []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:kube-system"}; !slices.Equal(groups, want) {
		t.Errorf("a controller is in %q, want %q", groups, want)
	}
}

// asked sends a controller's request to an API server and returns as whom and
// by which agent it arrives.
func asked(t *testing.T, clients controllerClients, name string) (who user.Info, agent string) {
	t.Helper()
	clients.api.Handle(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		who, _ = inmemory.Identity(r.Context())
		agent = r.UserAgent()
	}))
	config, err := clients.Config(name)
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(config.Host + "/api/v1/pods")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return who, agent
}

// TestReadyWaitsForAPIServer: neither nobody nor a server that is not ready will do.
func TestReadyWaitsForAPIServer(t *testing.T) {
	t.Parallel()
	api := &inmemory.Server{}
	done := make(chan error, 1)
	go func() {
		done <- waitReady(t.Context(), api.Config(identity("system:apiserver")))
	}()
	var asked atomic.Int32
	answer := func(status int) {
		asked.Store(0)
		api.Handle(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			asked.Add(1)
		}))
	}
	answer(http.StatusInternalServerError)
	for asked.Load() < 3 {
		select {
		case err := <-done:
			t.Fatalf("an API server that is not ready passes for one that is: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	answer(http.StatusOK)
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("a ready API server is not noticed")
	}
}

package controlplane

import (
	"slices"
	"strings"
	"testing"

	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"brink/internal/componentargs"
	"brink/internal/testerror"
	"brink/internal/testprocess"
)

// TestVolatileResources: what the override leads to memory, and that nothing
// else is led there.
func TestVolatileResources(t *testing.T) {
	opts := options.NewServerRunOptions()
	cfg := plausible()
	if err := componentargs.Parse(merge("kube-apiserver", opts.Flags()), "kube-apiserver-arg", apiServerDefaults(cfg), nil); err != nil {
		t.Fatal(err)
	}
	if got := opts.Etcd.StorageConfig.Transport.ServerList; !slices.Equal(got, []string{cfg.DurableEndpoint}) {
		t.Errorf("state lies in %q", got)
	}
	var volatile []string
	for _, override := range opts.Etcd.EtcdServersOverrides {
		resource, endpoint, _ := strings.Cut(override, "#")
		if endpoint != cfg.VolatileEndpoint {
			t.Errorf("%s lies in %s", resource, endpoint)
		}
		volatile = append(volatile, resource)
	}
	slices.Sort(volatile)
	if want := []string{"/apiServerIPInfo", "/apiServerPeerIPInfo", "/events", "coordination.k8s.io/leases", "events.k8s.io/events"}; !slices.Equal(volatile, want) {
		t.Errorf("volatile are %q, want %q", volatile, want)
	}
}

// storageOptions is what the API server makes of its defaults about state.
func storageOptions(t *testing.T, cfg Config) *genericoptions.EtcdOptions {
	t.Helper()
	server, err := newAPIServer(&ControlPlane{}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range server.options.Etcd.Validate() {
		t.Error(err)
	}
	return server.options.Etcd
}

func TestStorageOptions(t *testing.T) {
	const one, several = "http://192.0.2.7:2379", "https://a.test:2379,https://b.test:2379"
	tests := []struct {
		name              string
		durable, volatile string
		etcd              *Etcd
		servers           []string
		overridden        bool
	}{
		{name: "of brink", durable: "unix:///run/a.sock", volatile: "unix:///run/b.sock", servers: []string{"unix:///run/a.sock"}, overridden: true},
		{name: "a database through brink", durable: "unix:///run/a.sock", volatile: "unix:///run/a.sock", servers: []string{"unix:///run/a.sock"}},
		{name: "an etcd", durable: one, volatile: one, etcd: &Etcd{}, servers: []string{one}},
		{name: "three of them with TLS", durable: several, volatile: several, etcd: &Etcd{CAFile: "/ca", CertFile: "/crt", KeyFile: "/key"},
			servers: []string{"https://a.test:2379", "https://b.test:2379"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := plausible()
			cfg.DurableEndpoint, cfg.VolatileEndpoint, cfg.Etcd = tt.durable, tt.volatile, tt.etcd
			etcd := storageOptions(t, cfg)
			transport := etcd.StorageConfig.Transport
			if !slices.Equal(transport.ServerList, tt.servers) {
				t.Errorf("servers are %q, want %q", transport.ServerList, tt.servers)
			}
			if got := len(etcd.EtcdServersOverrides) > 0; got != tt.overridden {
				t.Errorf("overrides are %q", etcd.EtcdServersOverrides)
			}
			// The watch cache drops what it has of old revisions by the API server's
			// own compactor, so there must be one whoever keeps the state.
			if etcd.StorageConfig.CompactionInterval <= 0 {
				t.Errorf("compacts every %s: paged lists would never expire", etcd.StorageConfig.CompactionInterval)
			}
			if tt.etcd != nil && (Etcd{transport.TrustedCAFile, transport.CertFile, transport.KeyFile}) != *tt.etcd {
				t.Errorf("TLS is by %q, %q, %q", transport.TrustedCAFile, transport.CertFile, transport.KeyFile)
			}
		})
	}
}

func TestBadArgs(t *testing.T) {
	tests := []struct {
		api, controllers, scheduler string
		want                        string
	}{
		{api: "nonsense=1", want: `--kube-apiserver-arg=nonsense=1: there is no flag "nonsense"`},
		{api: "--nonsense", want: `--kube-apiserver-arg=--nonsense: there is no flag "nonsense"`},
		{api: "secure-port=high", want: "--kube-apiserver-arg=secure-port=high: "},
		{controllers: "nonsense=1", want: `--kube-controller-manager-arg=nonsense=1: there is no flag "nonsense"`},
		{controllers: "concurrent-gc-syncs=many", want: "--kube-controller-manager-arg=concurrent-gc-syncs=many: "},
		{controllers: "controllers=nonsense", want: "checking --kube-controller-manager-arg: "},
		{scheduler: "nonsense=1", want: `--kube-scheduler-arg=nonsense=1: there is no flag "nonsense"`},
		{scheduler: "kube-api-burst=few", want: "--kube-scheduler-arg=kube-api-burst=few: "},
		{scheduler: "secure-port=99999999999999999999", want: "--kube-scheduler-arg=secure-port=99999999999999999999: "},
	}
	for _, tt := range tests {
		t.Run(tt.api+tt.controllers+tt.scheduler, func(t *testing.T) {
			testerror.OneLine(t, newWith(tt.api, tt.controllers, tt.scheduler), tt.want)
		})
	}
}

func newWith(api, controllers, scheduler string) error {
	cfg := plausible()
	for arg, list := range map[string]*[]string{api: &cfg.APIServerArgs, controllers: &cfg.ControllerArgs, scheduler: &cfg.SchedulerArgs} {
		if arg != "" {
			*list = []string{arg}
		}
	}
	_, err := New(cfg)
	return err
}

// TestBadFeatureGate has a process for each: gates are process globals, and a bad
// one stays.
func TestBadFeatureGate(t *testing.T) {
	if arg := testprocess.Argument(); arg != "" {
		option, value, _ := strings.Cut(arg, "=")
		args := map[string]string{option: value}
		err := newWith(args["kube-apiserver-arg"], args["kube-controller-manager-arg"], args["kube-scheduler-arg"])
		testerror.OneLine(t, err, "--"+arg+": ")
		return
	}
	for _, arg := range []string{
		"kube-apiserver-arg=feature-gates=NoSuchGate=true",
		"kube-apiserver-arg=feature-gates=NoValue",
		"kube-apiserver-arg=--feature_gates=NoSuchGate=true",
		"kube-apiserver-arg=emulated-version=nonsense",
		"kube-controller-manager-arg=feature-gates=NoSuchGate=true",
		"kube-scheduler-arg=feature-gates=NoSuchGate=true",
	} {
		t.Run(arg, func(t *testing.T) { testprocess.MustPass(t, arg) })
	}
}

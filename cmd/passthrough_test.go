package cmd

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/urfave/cli/v2"
	cliflag "k8s.io/component-base/cli/flag"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	controlleroptions "k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app/options"

	"brink/internal/testerror"
)

func TestCheckManaged(t *testing.T) {
	t.Parallel()
	cases := []struct {
		args    string
		refused string // a part of the one line
		ignored string
	}{
		{"--kubelet-arg=max-pods=20 --kube-proxy-arg=nodeport-addresses=192.0.2.0/24", "", ""},
		{"--kubelet-arg=authorization-mode=AlwaysAllow --kube-apiserver-arg=anonymous-auth=true", "", ""},
		{"--kube-controller-manager-arg=node-cidr-mask-size=26", "", ""},
		{"--kube-apiserver-arg=--secure_port=1", "--kube-apiserver-arg=--secure_port=1: use brink's own --https-listen-port", ""},
		{"--kube-apiserver-arg=etcd-prefix=/mine", "repairs the database by the keys below /registry", ""},
		{"--kubelet-arg=hostname-override=x", "--kubelet-arg=hostname-override=x: use brink's own --node-name", ""},
		{"--kubelet-arg=node-labels=a=b", "", ""},
		{"--kubelet-arg=node-labels=a=b --node-label=c=d", "--kubelet-arg=node-labels=a=b: give all labels by --node-label", ""},
		{"--kubelet-arg=register-with-taints=a=b:NoSchedule --node-label=c=d", "", ""},
		{"--kubelet-arg=cgroup-driver=systemd", "", ""},
		{"--kube-proxy-arg=detect-local-mode=BridgeInterface", "pods are known by --cluster-cidr", ""},
		{"--kube-controller-manager-arg=cluster-cidr=10.0.0.0/8", "use brink's own --cluster-cidr", ""},
		{"--kube-scheduler-arg=kubeconfig=/root/.kube/config", "reach the API server in memory", ""},
		{"--kube-controller-manager-arg=bind-address=0.0.0.0", "", "--kube-controller-manager-arg=bind-address=0.0.0.0 has no effect: it opens no port of its own: metrics are on the API server's /metrics"},
		{"--kube-scheduler-arg=leader-elect-lease-duration=1m", "", "one server needs no leader"},
		{"--kubelet-arg=logging-format=json", "", "all components share brink's log"},
		{"--kube-apiserver-arg=bind-address-of-nobody=1", "", ""}, // refused later: no such flag
	}
	for _, c := range cases {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			withFlags(t, strings.Fields(c.args), func(ctx *cli.Context) {
				ignored, err := checkManaged(ctx)
				if c.refused != "" || err != nil {
					testerror.OneLine(t, err, c.refused)
				}
				if got := strings.Join(ignored, "\n"); !strings.Contains(got, c.ignored) || c.ignored == "" && got != "" {
					t.Errorf("ignored is %q, want %q", got, c.ignored)
				}
			})
		})
	}
}

// TestManagedFlagsExist: a flag that upstream has renamed would not be recognised.
func TestManagedFlagsExist(t *testing.T) {
	t.Parallel()
	for option, fs := range componentFlags(t) {
		if len(managedFlags[option]) == 0 {
			t.Errorf("nothing is known about --%s", option)
		}
		for _, own := range managedFlags[option] {
			prefix, all := strings.CutSuffix(own.name, "*")
			found := false
			fs.VisitAll(func(f *pflag.Flag) { found = found || f.Name == own.name || all && strings.HasPrefix(f.Name, prefix) })
			if !found {
				t.Errorf("--%s has no flag %s", option, own.name)
			}
			if (own.refused == "") == (own.ignored == "") {
				t.Errorf("--%s=%s must be refused or ignored, for a reason", option, own.name)
			}
		}
	}
}

func componentFlags(t *testing.T) map[string]*pflag.FlagSet {
	t.Helper()
	manager, err := controlleroptions.NewKubeControllerManagerOptions()
	if err != nil {
		t.Fatal(err)
	}
	config, err := kubelet.NewKubeletConfiguration()
	if err != nil {
		t.Fatal(err)
	}
	ofKubelet, ofProxy := pflag.NewFlagSet("", pflag.ContinueOnError), pflag.NewFlagSet("", pflag.ContinueOnError)
	kubelet.NewKubeletFlags().AddFlags(ofKubelet)
	kubelet.AddKubeletConfigFlags(ofKubelet, config)
	proxy.NewOptions().AddFlags(ofProxy)
	all := func(sections cliflag.NamedFlagSets) *pflag.FlagSet {
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		for _, section := range sections.FlagSets {
			fs.AddFlagSet(section)
		}
		return fs
	}
	return map[string]*pflag.FlagSet{
		"kube-apiserver-arg":          all(apiserver.NewServerRunOptions().Flags()),
		"kube-controller-manager-arg": all(manager.Flags(controllers.KnownControllers(), controllers.ControllersDisabledByDefault(), controllers.ControllerAliases())),
		"kube-scheduler-arg":          all(*scheduler.NewOptions().Flags),
		"kubelet-arg":                 ofKubelet,
		"kube-proxy-arg":              ofProxy,
	}
}

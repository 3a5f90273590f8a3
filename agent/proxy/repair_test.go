package proxy

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/proxy"

	"brink/internal/testneed"
	"brink/internal/testprocess"
	"brink/internal/testwait"
	"brink/network/nftables"
)

func addService(t *testing.T, client kubernetes.Interface, name, ip string) {
	t.Helper()
	port := int32(8080)
	_, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Type: corev1.ServiceTypeNodePort, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}},
	}, metav1.CreateOptions{})
	if err == nil {
		_, err = client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.7"}}},
			Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port, Protocol: new(corev1.Protocol(corev1.ProtocolTCP))}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func nft(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v: %s", args, err, out)
	}
	return string(out)
}

// serves returns a function that reports whether the tables have the Services with these
// addresses, and the chain by which packets get there.
func serves(ips ...string) func() bool {
	return func() bool {
		out, _ := exec.Command("nft", "list", "table", "ip", "kube-proxy").Output()
		for _, ip := range ips {
			if !strings.Contains(string(out), ip+" . tcp . 80 : goto service-") {
				return false
			}
		}
		return strings.Contains(string(out), "hook prerouting priority dstnat; policy accept;\n\t\tjump services")
	}
}

// TestRulesComeBack: what somebody deletes of upstream's tables is written again at
// once, in a process with a network of its own.
func TestRulesComeBack(t *testing.T) {
	if testprocess.Argument() == "" {
		testneed.Root(t)
		cmd := testprocess.Again(t, "rules")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	p, err := New(plausible(harmless...))
	if err != nil {
		t.Fatal(err)
	}
	p.config.HealthzBindAddress = "127.0.0.1:0" // which flags may not say
	client := nodeWithAddress()
	addService(t, client, "first", "10.43.0.7")
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- p.serve(ctx, client, func() { close(ready) }) }()
	<-ready
	testwait.Until(t, "the Service is served", serves("10.43.0.7"))
	old := filepath.Join(t.TempDir(), "old")
	if err := os.WriteFile(old, []byte("flush ruleset\n"+nft(t, "list", "ruleset")), 0o600); err != nil {
		t.Fatal(err)
	}
	addService(t, client, "second", "10.43.0.8")
	testwait.Until(t, "the second Service is served", serves("10.43.0.7", "10.43.0.8"))
	for _, damage := range [][]string{{"flush", "ruleset"}, {"delete", "table", "ip", "kube-proxy"}, {"flush", "table", "ip", "kube-proxy"}, {"flush", "chain", "ip", "kube-proxy", "nat-prerouting"}, {"-f", old}} {
		nft(t, damage...)
		if serves("10.43.0.7", "10.43.0.8")() {
			t.Errorf("nft %v is no damage", damage)
		}
		testwait.Until(t, fmt.Sprintf("nft %v is repaired", damage), serves("10.43.0.7", "10.43.0.8"))
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// told notes what a proxier is told of where the node stands.
type told struct {
	proxy.Provider
	labels []string
}

func (p *told) OnTopologyChange(labels map[string]string) {
	p.labels = append(p.labels, fmt.Sprint(labels))
}

// TestResync: asking for all rules changes nothing that upstream knows of the node.
func TestResync(t *testing.T) {
	t.Parallel()
	inner := &told{}
	r := &resyncing{Provider: inner}
	r.resync()
	r.OnTopologyChange(map[string]string{"zone": "a"})
	r.resync()
	if got := strings.Join(inner.labels, " "); got != "map[] map[zone:a] map[zone:a]" {
		t.Errorf("told %s", got)
	}
}

// TestKeeper: a table is written anew once for each damage, and one that was never
// written is not.
func TestKeeper(t *testing.T) {
	t.Parallel()
	right := nftables.TableShape{Handle: 1, Hooked: "input: 2"}
	shapes := map[corev1.IPFamily]nftables.TableShape{corev1.IPv4Protocol: right}
	at := map[corev1.IPFamily]float64{corev1.IPv4Protocol: 1}
	synced, fails, odd := 0, false, ""
	k := newRepairer(slog.New(slog.DiscardHandler), []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, func() {
		if synced++; !fails {
			at[corev1.IPv4Protocol]++
			shapes[corev1.IPv4Protocol] = nftables.TableShape{Handle: cmp.Or(shapes[corev1.IPv4Protocol].Handle, uint64(100+synced)), Hooked: "input: 2" + odd}
		}
	})
	k.shape = func(f corev1.IPFamily) (nftables.TableShape, error) { return shapes[f], nil }
	k.written = func(f corev1.IPFamily) float64 { return at[f] }
	look := func(what string, want int) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		if fails {
			cancel() // as if it had been waited for long enough
		}
		defer cancel()
		if k.repair(ctx); synced != want {
			t.Errorf("%s: written %d times, want %d", what, synced, want)
		}
	}
	look("at first", 0)
	look("nothing new", 0)
	shapes[corev1.IPv4Protocol] = nftables.TableShape{}
	look("deleted", 1)
	look("written", 1)
	shapes[corev1.IPv4Protocol] = nftables.TableShape{Handle: 99, Hooked: "input: 2"}
	look("replaced", 2)
	shapes[corev1.IPv4Protocol] = nftables.TableShape{Handle: 99, Hooked: "input: 0"}
	look("flushed", 3)
	look("written", 3)
	fails, shapes[corev1.IPv4Protocol] = true, nftables.TableShape{}
	look("the repair fails", 4)
	look("it is tried again", 5)
	fails = false
	look("it succeeds", 6)
	look("it is known", 6)
	odd, shapes[corev1.IPv4Protocol] = ", output: 1", nftables.TableShape{Handle: shapes[corev1.IPv4Protocol].Handle, Hooked: "input: 2, output: 1"}
	look("another way of upstream's", 7)
	look("which is right then", 7)
}

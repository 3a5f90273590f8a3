package kubelet

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	nodeutil "k8s.io/component-helpers/node/util"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/kubelet/nodestatus"
)

func TestAddressFlags(t *testing.T) {
	t.Parallel()
	const external = "cloud-provider=external"
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"IPv4", Config{NodeIPs: []netip.Addr{v4}}, []string{external}},
		{"IPv4 first", Config{NodeIPs: []netip.Addr{v4, v6}}, []string{external}},
		{"IPv6", Config{NodeIPs: []netip.Addr{v6}}, []string{external, "node-ip=2001:db8::1"}},
		{"IPv6 first", Config{NodeIPs: []netip.Addr{v6, v4}}, []string{external, "node-ip=2001:db8::1,192.0.2.1"}},
		{"offline", Config{NodeIPs: []netip.Addr{v4}, Offline: true}, []string{external, "node-ip=192.0.2.1"}},
		{"a cloud provider's", Config{NodeIPs: []netip.Addr{v6}, Args: []string{"cloud-provider=external"}}, []string{"node-ip=2001:db8::1"}},
	} {
		if got := addressFlags(tt.cfg); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// nodeAddress is upstream's part that fills in a Node's addresses, by our flags.
func nodeAddress(t *testing.T, valid func(net.IP) error, ips ...string) nodestatus.Setter {
	t.Helper()
	cfg := Config{}
	for _, ip := range ips {
		cfg.NodeIPs = append(cfg.NodeIPs, netip.MustParseAddr(ip))
	}
	var flag string
	for _, f := range addressFlags(cfg) {
		if value, ok := strings.CutPrefix(f, "node-ip="); ok {
			flag = value
		}
	}
	parsed, invalid, err := nodeutil.ParseNodeIPArgument(flag, "external")
	if err != nil || len(invalid) > 0 {
		t.Fatalf("--node-ip=%s: %v %v", flag, invalid, err)
	}
	cannot := func(net.IP) (net.IP, error) { return nil, errors.New("no default route") }
	return nodestatus.NodeAddress(parsed, valid, "node-1.example.org", true, cannot)
}

// TestNoNameServers: a node registers without asking who it is, of whatever family.
// Not parallel: the resolver is the process's.
func TestNoNameServers(t *testing.T) {
	old := net.DefaultResolver
	defer func() { net.DefaultResolver = old }()
	asked := false
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked = true
		return nil, errors.New("no name server answers")
	}}
	for _, ips := range [][]string{{"192.0.2.1"}, {"2001:db8::1"}, {"192.0.2.1", "2001:db8::1"}, {"2001:db8::1", "192.0.2.1"}} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1.example.org"}}
		if err := nodeAddress(t, func(net.IP) error { return nil }, ips...)(t.Context(), node); err != nil || asked {
			t.Errorf("%v: %v, asked name servers: %t", ips, err, asked)
		}
	}
}

// TestMovedNode: what upstream says of an address that is gone is not logged, and
// nothing else is left out.
func TestMovedNode(t *testing.T) {
	t.Parallel()
	var lines []string
	logger := funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{})
	logger = logger.WithSink(movedSink{logger.GetSink()}).WithName("kubelet").WithValues("a", 1)
	ctx := klog.NewContext(t.Context(), logger)
	gone := map[string]bool{}
	setter := nodeAddress(t, func(ip net.IP) error {
		if gone[ip.String()] {
			return errors.New("not found in the host's network interfaces")
		}
		return nil
	}, "2001:db8::1", "192.0.2.1")
	for _, ip := range []string{"192.0.2.1", "2001:db8::1"} {
		gone[ip] = true
		node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "2001:db8::2"}}}}
		err := setter(ctx, node)
		if err == nil || len(node.Status.Addresses) != 1 {
			t.Fatalf("without %s: %v, addresses %v", ip, err, node.Status.Addresses)
		}
		logger.Error(err, statusFailed)
	}
	if len(lines) > 0 {
		t.Errorf("logged %q", lines)
	}
	logger.Error(errors.New("the disk is full"), statusFailed)
	logger.Error(errors.New(addressGone), "something else")
	if len(lines) != 2 {
		t.Errorf("logged %q, want two lines", lines)
	}
}

// TestMovedSinkKeepsTheCaller: the last words of Kubernetes are known by their function.
func TestMovedSinkKeepsTheCaller(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := logr.FromSlogHandler(slog.NewTextHandler(&out, &slog.HandlerOptions{AddSource: true}))
	logger = logger.WithSink(movedSink{logger.GetSink()}).WithName("kubelet").WithValues("a", 1)
	logger.Error(errors.New("in use"), "cannot listen")
	logger.Info("told")
	logger.WithCallDepth(0).Error(nil, "and again")
	if n := strings.Count(out.String(), "addresses_test.go"); n != 3 {
		t.Errorf("%d of 3 lines are by this function:\n%s", n, out.String())
	}
}

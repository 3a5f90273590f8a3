package proxy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/proxy/metrics"

	"brink/internal/testwait"
)

// brokenNFT puts an nft in front of the host's whose transactions fail as long
// as the returned file exists. It never changes this machine's rules.
func brokenNFT(t *testing.T) (switched string) {
	t.Helper()
	dir := t.TempDir()
	switched = filepath.Join(dir, "broken")
	script := fmt.Sprintf(`#!/bin/sh
case "$*" in
--version) echo "nftables v1.0.6 (Lester Gooch #5)" ;;
"--check -f -") cat >/dev/null ;;
"-f -")
	cat >/dev/null
	[ ! -e %s ] && exit 0
	printf '/dev/stdin:7:1-9: Error: Could not process rule: No such file or directory\nadd rule ip kube-proxy x numgen random mod 2\n^^^^^^\n' >&2
	exit 1 ;;
*)
	echo "Error: No such file or directory" >&2
	exit 1 ;;
esac
`, switched)
	for path, content := range map[string]string{switched: "", filepath.Join(dir, "nft"): script} {
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return switched
}

// harmless leaves the machine's own settings alone.
var harmless = []string{"oom-score-adj=0",
	"conntrack-max-per-core=0", "conntrack-min=0", "conntrack-tcp-timeout-established=0", "conntrack-tcp-timeout-close-wait=0"}

func nodeWithAddress() kubernetes.Interface {
	return fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}},
	})
}

func TestReadyOnlyWithRules(t *testing.T) {
	broken := brokenNFT(t)
	p, err := New(plausible(harmless...))
	if err != nil {
		t.Fatal(err)
	}
	p.config.HealthzBindAddress = "127.0.0.1:0" // which flags may not say
	metrics.SyncProxyRulesLastTimestamp.Reset() // it outlives a test
	if err := p.Health(); err != nil {
		t.Errorf("before the start: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- p.serve(ctx, nodeWithAddress(), func() { close(ready) }) }()
	isReady := func() bool {
		select {
		case <-ready:
			return true
		default:
			return false
		}
	}

	testwait.Until(t, "the failure is told", func() bool { return p.Health() != nil })
	time.Sleep(5 * pollInterval)
	if isReady() {
		t.Error("ready without a rule")
	}
	text := p.Health().Error()
	if !strings.Contains(text, "No such file or directory add rule ip kube-proxy x numgen") || strings.Contains(text, "\n") {
		t.Errorf("got %q, want one line with what nft said", text)
	}

	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the rules are written by another try", isReady)
	if err := p.Health(); err != nil {
		t.Errorf("with all rules: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

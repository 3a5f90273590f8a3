package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/e2e/machine"
)

// listenAsSystemd is the other end of NOTIFY_SOCKET. The channel gets each datagram until
// the test's end, without what a status line says, and READY=1 with what the API server
// said of the node at that moment.
func (n *node) listenAsSystemd(t *testing.T) <-chan string {
	t.Helper()
	path := filepath.Join(n.Dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	n.Env = append(n.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=3000000")
	got := make(chan string, 1000)
	go func() {
		defer close(got)
		buf := make([]byte, 1024)
		for {
			size, err := conn.Read(buf)
			if err != nil {
				return
			}
			said, _, _ := strings.Cut(strings.TrimSpace(string(buf[:size])), "\n")
			if said == "READY=1" {
				said += " and the node was " + n.readiness()
			}
			got <- said
		}
	}()
	return got
}

// awaitSaid reads what systemd is told until it is said, and returns the lines before.
func awaitSaid(t *testing.T, notified <-chan string, wanted string) (before []string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case said := <-notified:
			if strings.HasPrefix(said, wanted) {
				return before
			}
			before = append(before, said)
		case <-late:
			t.Fatalf("systemd was told %q and not %q", before, wanted)
		}
	}
}

// readiness asks the API server, with a client of its own.
func (n *node) readiness() string {
	config, err := n.RestConfig()
	if err != nil {
		return err.Error()
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err.Error()
	}
	obj, err := client.CoreV1().Nodes().Get(context.Background(), n.ID, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	if c := machine.ReadyCondition(obj); c.Status != corev1.ConditionTrue {
		return fmt.Sprintf("not Ready: %s: %s", c.Reason, c.Message)
	}
	return "Ready"
}

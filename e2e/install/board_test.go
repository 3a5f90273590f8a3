package install

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"brink/e2e/guest"
	"brink/e2e/machine"
)

// TestBoardMemory runs a server and ten pods for ten minutes with the memory of a small
// board: nothing is killed for it and nothing starts again.
func TestBoardMemory(t *testing.T) {
	t.Parallel()
	g := guest.New(t, byHand, guest.Small(guest.Limits{Memory: 512 << 20}))
	installByHand(g)
	deployWeb(g)
	g.Do(brink, "kubectl", "scale", "deployment/web", "--replicas=10")
	g.Do(brink, "kubectl", "rollout", "status", "deployment/web", "--timeout=300s")
	process := mainProcess(g)
	took := useAPI(g, 10*time.Minute)
	slices.Sort(took)
	t.Logf("%d requests: half within %v, 99 of 100 within %v, the slowest took %v", len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	t.Logf("most memory at a time, with the page cache: %s MB", megabytes(t, g, "memory.max_usage_in_bytes"))
	if kills := oomKills(t, g); kills > 0 {
		t.Errorf("%d processes were killed for lack of memory", kills)
	}
	if now := mainProcess(g); now != process {
		t.Errorf("brink's process was %s and is %s", process, now)
	}
	mustNotRestart(g)
	if pods := g.Do(brink, "kubectl", "get", "pods", "-o", `jsonpath={range .items[*]}{.status.phase} {.status.containerStatuses[0].restartCount}{"\n"}{end}`); pods != strings.TrimSpace(strings.Repeat("Running 0\n", 10)) {
		t.Errorf("the pods are\n%s", pods)
	}
}

// TestBoardProcessor installs on a quarter of a core: slow, and without a loop of starts.
func TestBoardProcessor(t *testing.T) {
	t.Parallel()
	g := guest.New(t, byHand, guest.Small(guest.Limits{CPU: 25}))
	begun := time.Now()
	installByHand(g)
	t.Logf("Ready %v after the first command", time.Since(begun).Round(time.Second))
	mustNotRestart(g)
	begun = time.Now()
	deployWeb(g)
	t.Logf("web served after %v more", time.Since(begun).Round(time.Second))
	if throttled := throttled(t, g); throttled == 0 {
		t.Error("the guest never wanted more than a quarter of a core: this test shows nothing")
	}
	mustNotRestart(g)
}

// mainProcess is the number of the unit's process.
func mainProcess(g *guest.Guest) string {
	g.Helper()
	return g.Do("systemctl", "show", "-p", "MainPID", "--value", "brink")
}

// mustNotRestart fails the test when systemd has started brink again by itself.
func mustNotRestart(g *guest.Guest) {
	g.Helper()
	if n := g.Do("systemctl", "show", "-p", "NRestarts", "--value", "brink"); n != "0" {
		g.Errorf("systemd has restarted brink %s times", n)
	}
}

// client is the administrator's, from outside of the guest.
func client(g *guest.Guest) kubernetes.Interface {
	g.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(g.Read("/etc/brink/brink.yaml")))
	if err != nil {
		g.Fatal(err)
	}
	config.Host = "https://" + g.Addr().String() + ":6443"
	config.Dial, config.QPS = g.Net().Netns().Dial, -1
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		g.Fatal(err)
	}
	return c
}

// useAPI lists, writes and reads for a while, five times a second, and returns how long
// each request took.
func useAPI(g *guest.Guest, long time.Duration) (took []time.Duration) {
	g.Helper()
	ctx, c := context.Background(), client(g)
	maps := c.CoreV1().ConfigMaps("default")
	name := "board-" + machine.RandomID()
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		g.Fatal(err)
	}
	requests := []func(n int) error{
		func(int) error {
			_, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
			return err
		},
		func(n int) error {
			_, err := maps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": strconv.Itoa(n)}}, metav1.UpdateOptions{})
			return err
		},
		func(int) error {
			_, err := maps.Get(ctx, name, metav1.GetOptions{})
			return err
		},
	}
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		begun := time.Now()
		if err := requests[len(took)%len(requests)](len(took)); err != nil {
			g.Errorf("request %d: %v", len(took), err)
		}
		took = append(took, time.Since(begun))
	}
	return took
}

// memoryCgroup is where this machine has the guest's.
func memoryCgroup(g *guest.Guest) string { return filepath.Join(machine.CgroupFS, "memory", g.ID()) }

func megabytes(t *testing.T, g *guest.Guest, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(memoryCgroup(g), file))
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(bytes >> 20)
}

// throttled counts how often the guest had to wait for its next share of a core.
func throttled(t *testing.T, g *guest.Guest) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(machine.CgroupFS, "cpu", g.ID(), "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if count, is := strings.CutPrefix(line, "nr_throttled "); is {
			n, _ := strconv.Atoi(strings.TrimSpace(count))
			return n
		}
	}
	return 0
}

// oomKills counts the processes that the kernel has killed, in every cgroup.
func oomKills(t *testing.T, g *guest.Guest) (kills int) {
	t.Helper()
	seen := 0
	err := filepath.WalkDir(memoryCgroup(g), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "memory.oom_control" {
			return nil // gone while we look
		}
		b, _ := os.ReadFile(path)
		for line := range strings.Lines(string(b)) {
			if count, is := strings.CutPrefix(line, "oom_kill "); is {
				n, _ := strconv.Atoi(strings.TrimSpace(count))
				kills, seen = kills+n, seen+1
			}
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Fatalf("the kernel counts kills nowhere below %s: %v", memoryCgroup(g), err)
	}
	return kills
}

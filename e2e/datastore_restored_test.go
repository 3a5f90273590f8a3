package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stateFiles are where a server keeps what its cluster has come to.
func (n *node) stateFiles() []string {
	return []string{n.Inside(n.Layout().DB()), n.Inside(n.Layout().RevisionCeiling())}
}

// diskImage copies files and directories, as an image of a disk has them, and returns
// what puts them back, of those that are asked for.
func diskImage(t *testing.T, paths []string) (restore func(wanted ...string)) {
	t.Helper()
	dir := t.TempDir()
	copyTree := func(from, to string) error {
		info, err := os.Stat(from)
		if err == nil && info.IsDir() {
			return os.CopyFS(to, os.DirFS(from))
		}
		data, err := os.ReadFile(from)
		return errors.Join(err, os.WriteFile(to, data, 0o600))
	}
	for i, path := range paths {
		if err := copyTree(path, filepath.Join(dir, strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	return func(wanted ...string) {
		for i, path := range paths {
			for _, want := range wanted {
				if want != path {
					continue
				}
				if err := errors.Join(os.RemoveAll(path), copyTree(filepath.Join(dir, strconv.Itoa(i)), path)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// revision is how far the cluster's state is.
func (n *node) revision(t *testing.T) int64 {
	t.Helper()
	list, err := n.Client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := strconv.ParseInt(list.ResourceVersion, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// TestRestoredState puts an older state back under agents that stay up: the database
// alone, and everything that the server has, as an image of its disk does. Both times
// the next pod for an agent starts in time and one that the state does not know ends.
// The agent has joined again since, so that the state does not know its certificate.
func TestRestoredState(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	server, agent := c.server, c.agents[0]
	files := server.stateFiles()
	r := restoring{newNamespace(t, server), server, agent}
	r.restores("database", 28201, files, files[:1])
	r.restores("image", 28202, files, files)
}

// restoring is a cluster whose server is put back in time.
type restoring struct {
	ns            *namespace
	server, agent *node
}

// restores keeps all files of the state, has much happen, and puts some back.
func (r restoring) restores(name string, port int, all, back []string) {
	t, ns, server := r.ns.T, r.ns, r.server
	t.Helper()
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	restore := diskImage(t, all)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	answers := r.makeLate("late-"+name, port)
	for j := range 150 {
		if err := server.create(fmt.Sprintf("%s-%d", name, j)); err != nil {
			t.Fatal(err)
		}
	}
	highest := server.revision(t)
	if len(back) > 1 { // every watch of the agent is told how far the cluster is
		time.Sleep(70 * time.Second)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	restore(back...)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	ns.apply(r.onAgent(sleeper("new-"+name, "")))
	ns.readyPod("new-" + name)
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("%s: the agent was blind for %s", name, took)
	}
	t.Logf("%s: a pod made after it was restored is ready after %s", name, time.Since(begun).Round(100*time.Millisecond))
	ns.eventually("the end of the pod that the restored state does not know", func() error {
		if err := answers(); err == nil {
			return errors.New("it still answers")
		}
		return nil
	})
	ns.eventually("a revision above all that were handed out", func() error {
		if got := server.revision(t); got <= highest {
			return fmt.Errorf("%d, and %d was handed out", got, highest)
		}
		return nil
	})
}

// makeLate has the agent join again and gives it a pod, both of which the restored
// state will not know. It returns what asks the pod.
func (r restoring) makeLate(name string, port int) (answers func() error) {
	ns := r.ns
	ns.Helper()
	sw, err := sharedLAN()
	if err != nil {
		ns.Fatal(err)
	}
	r.agent.forgetCertificate(ns.T)
	if err := r.agent.Start(); err != nil {
		ns.Fatal(err)
	}
	ns.apply(r.onAgent(hostPortPod(name, port)))
	ns.readyPod(name)
	answers = func() error {
		got, err := sw.Netns().Get(fmt.Sprintf("http://%s:%d/hostname", r.agent.Addr, port))
		if err == nil && got != name {
			err = fmt.Errorf("%q answered", got)
		}
		return err
	}
	ns.eventually("the pod that will be forgotten", answers)
	return answers
}

// onAgent puts a pod on the agent.
func (r restoring) onAgent(pod string) string {
	return strings.Replace(pod, "spec:\n", "spec:\n  nodeName: "+r.agent.ID+"\n", 1)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/e2e/machine"
)

var joinedMetrics = []metric{
	{"joinsaid", "Start to Ready, as brink agent says on stdout", seconds},
	{"joinready", "Start to Ready, as the API says", seconds},
	{"joinpacket", "Start to the first packet from a pod on it to one on the server", seconds},
	{"pss", "Memory, PSS", megabytes},
	{"anon", "Memory, anonymous", megabytes},
	{"shims", "Memory of the shim of the one pod, PSS", megabytes},
	{"cpu", "CPU when idle, of a core", percent},
	{"disk", "Written to disk when idle, an hour", megabytes},
	{"others", "(CPU of everything else meanwhile, the server included, of a core)", percent},
}

// measureJoins has nodes join a server and leave it again. Each side has a server
// of its own, of the same kind and with the same pod, and they take turns.
func (r *report) measureJoins(ctx context.Context, log *slog.Logger) (err error) {
	l, err := newSwitch()
	if err != nil {
		return err
	}
	defer l.Close()
	joins := map[string]*joining{}
	for _, side := range sides {
		// The other side has routes made by hand.
		backend := map[string]string{brinkName: "vxlan", separateName: "none"}[side.name]
		c, err := startCluster(ctx, log, r.settings, l, "--network-backend="+backend)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.close()) }()
		if joins[side.name], err = newJoining(ctx, c); err != nil {
			return err
		}
	}
	if err := idle(ctx, r.settings.networkSettle); err != nil {
		return err
	}
	return r.eachRun(log, &r.joined, func(log *slog.Logger, side side, _ bool) (sample, error) {
		one, err := joins[side.name].measure(ctx, side.name)
		log.Info("measured", "joins", one)
		return one, err
	})
}

// joining is a cluster that is joined, and the pod on its server.
type joining struct {
	*cluster
	pod  pod
	runs int
}

func newJoining(ctx context.Context, c *cluster) (*joining, error) {
	if err := await(ctx, c.client.CoreV1().Nodes().Watch, c.machine.ID, readySince(time.Time{})); err != nil {
		return nil, err
	}
	p, err := c.runPod(ctx, "server", c.machine)
	if err == nil && !strings.HasPrefix(p.ip, strings.TrimSuffix(firstRange, "0/24")) {
		err = fmt.Errorf("the server's pod is %s, not of %s", p.ip, firstRange)
	}
	return &joining{cluster: c, pod: p}, err
}

// measure has one node join. A pod waits for it that calls the server's pod as
// soon as it runs, and again until it is heard.
func (j *joining) measure(ctx context.Context, side string) (_ sample, err error) {
	node, err := j.prepareAgent(ctx, side)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\n%s", err, node.logs())
		}
		err = errors.Join(err, j.leave(ctx, node))
	}()
	listener, err := j.listen()
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	remove, err := j.caller(ctx, node.ID, listener.Addr().(*net.TCPAddr).Port)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	return j.time(ctx, node, side, listener)
}

// listen hears calls to the server's pod.
func (j *joining) listen() (listener *net.TCPListener, err error) {
	err = machine.NetnsOf(j.pod.pid).Do(func() error {
		listener, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(j.pod.ip)})
		return err
	})
	if err == nil {
		err = listener.SetDeadline(time.Now().Add(patience))
	}
	return listener, err
}

// caller makes the pod that calls. Each call is given a second, but the next does
// not wait for it: the kernel repeats a lost first packet only after a second.
func (j *joining) caller(ctx context.Context, node string, port int) (remove func() error, err error) {
	j.runs++
	script := fmt.Sprintf("while :; do /bin/busybox nc -w 1 %s %d </dev/null & /bin/busybox sleep 0.05; done", j.pod.ip, port)
	name := fmt.Sprintf("caller-%d", j.runs)
	pods := j.client.CoreV1().Pods(namespace)
	if _, err = pods.Create(ctx, pinned(name, node, "/bin/busybox", "sh", "-c", script), metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	now := int64(0)
	return func() error { return pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}) }, nil
}

// time starts the node and waits for everything at once.
func (j *joining) time(ctx context.Context, n *joined, side string, calls net.Listener) (sample, error) {
	type event struct {
		key  string
		took time.Duration
		err  error
	}
	events := map[string]func() error{
		"joinready": func() error {
			return await(ctx, j.client.CoreV1().Nodes().Watch, n.ID, func(node *corev1.Node) bool { return readySince(time.Time{})(node) })
		},
		"joinpacket": func() error {
			conn, err := calls.Accept()
			if err == nil {
				err = conn.Close()
			}
			return err
		},
	}
	if side == brinkName {
		events["joinsaid"] = func() error { return n.says(ctx, "brink: node "+n.ID+" is Ready") }
	}
	happened := make(chan event, len(events))
	begun := time.Now()
	for key, wait := range events {
		go func() {
			err := wait()
			happened <- event{key, time.Since(begun), err}
		}()
	}
	if err := n.start(); err != nil {
		return nil, err
	}
	out := sample{}
	for range events {
		e := <-happened
		if e.err != nil {
			return nil, fmt.Errorf("waiting for %s: %w", e.key, e.err)
		}
		out[e.key] = e.took.Seconds()
	}
	return out, nil
}

// says waits for a line that begins so in what brink wrote.
func (t *testbed) says(ctx context.Context, begin string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		text, err := os.ReadFile(t.Inside("/run/brink.log"))
		if err == nil && strings.Contains(string(text), begin+" ") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("brink has not written %q", begin)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// measureAgent measures one run of a node that has joined and has one pod. Its
// server runs no pods.
func measureAgent(ctx context.Context, log *slog.Logger, s settings, side side, first bool) (_ sample, err error) {
	l, err := newSwitch()
	if err != nil {
		return nil, err
	}
	defer l.Close()
	c, err := startCluster(ctx, log, s, l, "--disable-agent")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	c.image = "" // it comes with the pod
	j, err := c.prepareAgent(ctx, side.name)
	if err != nil {
		return nil, err
	}
	r := &runOf{ctx: ctx, log: log.With("machine", j.ID), settings: s, machine: j.testbed, node: j.node, cluster: c, first: first, sample: sample{}}
	return r.sample, r.through([]func() error{r.start, r.startPod, r.settle, r.idle})
}

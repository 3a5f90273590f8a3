package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
)

// sample is what one run of one side gave, by the keys of metrics.
type sample map[string]float64

// runOf is one run of one side.
type runOf struct {
	ctx      context.Context
	log      *slog.Logger
	settings settings
	machine  *testbed
	node     node
	cluster  *cluster  // which the node joins, nil for a server's own
	first    bool      // of this side: with what is measured once
	begun    time.Time // when the node was last started
	sample   sample
}

type newNode func(settings, *testbed) (node, error)

// measure starts a node on a new machine, measures it and removes everything.
func measure(ctx context.Context, log *slog.Logger, s settings, newNode newNode, first bool) (sample, error) {
	return onNewMachine(ctx, log, s, newNode, func(r *runOf) []func() error {
		r.first = first
		return []func() error{
			r.prepare, r.start, r.startPod, r.settle, r.idle, r.profiles, r.used, r.pods, r.api, r.second, r.size,
		}
	})
}

// durableEndpoint is kine's default with one difference: it waits for the disk
// before it acknowledges, as brink does.
const durableEndpoint = "sqlite://./db/state.db?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_stmt_cache_size=20&cache=shared"

// measureDurable is a short run of the other side with durableEndpoint: creating
// objects is all that it changes.
func measureDurable(ctx context.Context, log *slog.Logger, s settings) (sample, error) {
	s.kineEndpoint = durableEndpoint
	all, err := onNewMachine(ctx, log, s, newSeparate, func(r *runOf) []func() error {
		return []func() error{r.prepare, r.start, r.api}
	})
	return sample{"durable50": all["create50"], "durable99": all["create99"]}, err
}

// onNewMachine goes through steps with a node that is there for them only.
func onNewMachine(ctx context.Context, log *slog.Logger, s settings, newNode newNode, steps func(*runOf) []func() error) (_ sample, err error) {
	m, err := newTestbed(nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Destroy()) }()
	n, err := newNode(s, m)
	if err != nil {
		return nil, err
	}
	r := &runOf{ctx: ctx, log: log.With("machine", m.ID), settings: s, machine: m, node: n, sample: sample{}}
	return r.sample, errors.Join(r.through(steps(r)), n.stop())
}

// through goes through steps until one goes wrong.
func (r *runOf) through(steps []func() error) error {
	for _, step := range steps {
		err := errors.Join(step(), r.ctx.Err())
		if err != nil && r.ctx.Err() == nil {
			err = fmt.Errorf("%w\n%s", err, r.node.logs())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// client is the administrator's.
func (r *runOf) client() (kubernetes.Interface, error) {
	if r.cluster != nil {
		return r.cluster.client, nil
	}
	return connect(r.ctx, r.machine, r.node.kubeconfig())
}

func (r *runOf) prepare() error { return r.node.prepare(r.ctx) }

// note records a figure and logs it.
func (r *runOf) note(key string, value float64) {
	r.sample[key] = value
	r.log.Info("measured", "what", key, "value", fmt.Sprintf("%.4g", value))
}

// ready starts the node and returns the time until it is Ready, as a client sees
// it that asks from before the start.
func (r *runOf) ready() (float64, error) {
	r.begun = time.Now()
	if err := r.node.start(); err != nil {
		return 0, err
	}
	client, err := r.client()
	if err != nil {
		return 0, err
	}
	err = await(r.ctx, client.CoreV1().Nodes().Watch, r.machine.ID, readySince(r.begun))
	took := time.Since(r.begun)
	for _, p := range r.node.running() {
		if n := p.restarted(); n > 0 {
			r.log.Info("ended by itself and was started again", "program", p.name, "times", n)
		}
	}
	return took.Seconds(), err
}

func (r *runOf) start() error {
	took, err := r.ready()
	r.note("ready", took)
	return err
}

// startPod brings the image and one pod, of which every figure from here on is
// in the presence.
func (r *runOf) startPod() error {
	archive := filepath.Join(r.machine.Dir, "image.tar")
	if err := writeImage(archive); err != nil {
		return err
	}
	if err := r.node.importImage(r.ctx, archive); err != nil {
		return err
	}
	client, err := r.client()
	if err != nil {
		return err
	}
	_, err = deploy(r.ctx, client, "one", 1)
	r.note("firstpod", time.Since(r.begun).Seconds())
	return err
}

// profiles asks the idle brink where its memory and its time are.
func (r *runOf) profiles() error {
	b, isBrink := r.node.(*brinkNode)
	if !r.first || !isBrink || r.settings.profiles == "" {
		return nil
	}
	if err := os.MkdirAll(r.settings.profiles, 0o755); err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", b.statusSocket())
	}}}
	for file, query := range map[string]string{
		"brink-heap.pb.gz": "heap", "brink-memstats.txt": "heap?debug=1", "brink-goroutines.txt": "goroutine?debug=1",
		"brink-cpu.pb.gz": "profile?seconds=60",
	} {
		if err := fetch(r.ctx, client, "http://brink/debug/pprof/"+query, filepath.Join(r.settings.profiles, file)); err != nil {
			return fmt.Errorf("getting profile %s: %w", query, err)
		}
	}
	return nil
}

func fetch(ctx context.Context, client *http.Client, url, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, resp.Body)
	return errors.Join(err, out.Close())
}

const manyPods = 20

func (r *runOf) pods() error {
	client, err := r.client()
	if err != nil {
		return err
	}
	took, err := deploy(r.ctx, client, "many", manyPods)
	if err != nil {
		return err
	}
	r.note("pods", took.Seconds())
	// They go again: the rest is measured beside one pod.
	return undeploy(r.ctx, client, "many")
}

func (r *runOf) api() error {
	client, err := r.client()
	if err != nil {
		return err
	}
	create, list, err := exercise(r.ctx, client)
	if err != nil {
		return err
	}
	r.note("create50", create.percentile(50).Seconds())
	r.note("create99", create.percentile(99).Seconds())
	if _, isBrink := r.node.(*brinkNode); isBrink { // it always waits for the disk
		r.note("durable50", create.percentile(50).Seconds())
		r.note("durable99", create.percentile(99).Seconds())
	}
	r.note("list50", list.percentile(50).Seconds())
	r.note("list99", list.percentile(99).Seconds())
	return nil
}

// second is a start with what the first left: one pod and the ConfigMaps.
func (r *runOf) second() error {
	if err := r.node.stop(); err != nil {
		return err
	}
	// Heartbeats are in whole seconds: none from before may look like new.
	if err := r.sleep(2 * time.Second); err != nil {
		return err
	}
	took, err := r.ready()
	r.note("restart", took)
	return err
}

func (r *runOf) size() error {
	size, err := r.node.size()
	r.note("size", float64(size))
	return err
}

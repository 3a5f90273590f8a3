package datastore

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	kinesqlite "github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// startKine serves kine's SQLite driver on socket as kine's own endpoint
// package does, with the defaults of its command line but for synchronous.
func startKine(dir, socket, synchronous string) (stop func(), err error) {
	logrus.SetOutput(io.Discard)
	if err := prepareDir(dir); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	params := strings.Replace(kinesqlite.DefaultParams, "NORMAL", synchronous, 1)
	_, backend, err := kinesqlite.New(ctx, &wg, &drivers.Config{
		DataSourceName:  filepath.Join(dir, databaseFile) + "?" + params,
		CompactInterval: 5 * time.Minute, CompactTimeout: 5 * time.Second,
		CompactMinRetain: 1000, CompactBatchSize: 1000, PollBatchSize: 500,
	})
	if err == nil {
		err = backend.Start(ctx)
	}
	var listener net.Listener
	if err == nil {
		listener, err = net.Listen("unix", socket)
	}
	rpc := grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(math.MaxInt32))
	stop = func() {
		rpc.Stop()
		cancel()
		wg.Wait()
	}
	if err != nil {
		stop()
		return nil, err
	}
	server.New(backend, "unix", 5*time.Second, version.Version).Register(rpc)
	go rpc.Serve(listener)
	return stop, nil
}

func dialKine(b *testing.B, synchronous string) *clientv3.Client {
	b.Helper()
	cfg := testConfig(b)
	socket := filepath.Join(cfg.SocketDir, "kine.sock")
	stop, err := startKine(cfg.Dir, socket, synchronous)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(stop)
	return dial(b, "unix://"+socket)
}

// contenders are brink and kine as it comes, and kine with brink's durability.
func contenders(b *testing.B, measure func(*testing.B, *clientv3.Client)) {
	b.Run("brink", func(b *testing.B) { measure(b, start(b, testConfig(b)).durable) })
	b.Run("kine-full", func(b *testing.B) { measure(b, dialKine(b, "FULL")) })
	b.Run("kine-default", func(b *testing.B) { measure(b, dialKine(b, "NORMAL")) })
}

// medians adds the p50 and p99 of what timed returns to a benchmark.
func medians(b *testing.B, timed func(i int) error) {
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		if err := timed(i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// An API server has a watch on every resource.
func watchLikeAPIServer(b *testing.B, c *clientv3.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	for i := range 60 {
		client := dial(b, c.Endpoints()[0])
		prefix := fmt.Sprintf("/registry/resource%d/", i)
		w := client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
		<-w
		go func() {
			for range w {
			}
		}()
	}
}

func BenchmarkCreate(b *testing.B) {
	value := strings.Repeat("x", 1000)
	contenders(b, func(b *testing.B, c *clientv3.Client) {
		watchLikeAPIServer(b, c)
		medians(b, func(i int) error {
			_, err := create(context.Background(), c, fmt.Sprintf("/registry/resource1/%08d", i), value)
			return err
		})
	})
}

func BenchmarkUpdate(b *testing.B) {
	value := strings.Repeat("x", 1000)
	contenders(b, func(b *testing.B, c *clientv3.Client) {
		watchLikeAPIServer(b, c)
		rev := mustCreate(b, c, "/registry/resource1/a", value)
		_, before := usage(b, os.Getpid())
		medians(b, func(int) (err error) {
			rev, err = update(context.Background(), c, "/registry/resource1/a", value, rev)
			return err
		})
		_, after := usage(b, os.Getpid())
		b.ReportMetric(float64(after-before)/1024/float64(b.N), "KiB-written/op")
	})
}

func BenchmarkList1000(b *testing.B) {
	value := strings.Repeat("x", 1000)
	contenders(b, func(b *testing.B, c *clientv3.Client) {
		watchLikeAPIServer(b, c)
		for i := range 1000 {
			mustCreate(b, c, fmt.Sprintf("/registry/resource1/%08d", i), value)
		}
		medians(b, func(int) error {
			_, err := c.Get(context.Background(), "/registry/resource1/", clientv3.WithPrefix())
			return err
		})
	})
}

// BenchmarkProgress is what a consistent list of a quiet resource waits for:
// after a write elsewhere, the API server asks how far its watch is, every
// 100 ms until the answer has the write's revision.
func BenchmarkProgress(b *testing.B) {
	contenders(b, func(b *testing.B, c *clientv3.Client) {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(context.Background()))
		b.Cleanup(cancel)
		w := c.Watch(ctx, "/registry/quiet/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
		<-w
		medians(b, func(i int) error {
			rev, err := create(ctx, c, fmt.Sprintf("/registry/other/%08d", i), "x")
			for err == nil {
				if err = c.RequestProgress(ctx); err != nil {
					return err
				}
				select {
				case r := <-w:
					if r.Header.Revision >= rev {
						return nil
					}
				case <-time.After(100 * time.Millisecond):
				}
			}
			return err
		})
	})
}

// idleFor is how long BenchmarkIdle looks. Set it to 2m for figures worth noting.
var idleFor = flag.Duration("idle", 10*time.Second, "time for which BenchmarkIdle watches an idle store")

// BenchmarkIdle measures a process that only serves 60 watches and, as on an
// idle node, the renewal of two leases every ten seconds. kine keeps those in
// its one database.
func BenchmarkIdle(b *testing.B) {
	for _, kind := range []string{"brink", "kine"} {
		b.Run(kind, func(b *testing.B) {
			b.N = 1
			cfg := testConfig(b)
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{cfg.Dir, cfg.SocketDir, "serve-" + kind}, ";"))
			child.Stderr = os.Stderr
			if err := child.Start(); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				child.Process.Signal(os.Interrupt)
				child.Wait()
			})
			durable, volatile := dial(b, "unix://"+cfg.SocketDir+"/"+durableSocket), dial(b, "unix://"+cfg.SocketDir+"/"+volatileSocket)
			if kind == "kine" {
				volatile = durable
			}
			watchLikeAPIServer(b, durable)
			renewLeases(b, volatile)
			time.Sleep(5 * time.Second)
			cpu, written := usage(b, child.Process.Pid)
			time.Sleep(*idleFor)
			cpu2, written2 := usage(b, child.Process.Pid)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(100*(cpu2-cpu).Seconds()/idleFor.Seconds(), "%cpu")
			b.ReportMetric(float64(written2-written)*float64(time.Hour)/float64(*idleFor)/1024, "KiB-written/h")
			b.ReportMetric(float64(resident(b, child.Process.Pid))/1024, "MiB-PSS")
		})
	}
}

func renewLeases(b *testing.B, c *clientv3.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	for i := range 2 {
		key := fmt.Sprint("/registry/leases/", i)
		rev := mustCreate(b, c, key, strings.Repeat("x", 400))
		go func() {
			for ctx.Err() == nil {
				rev, _ = update(ctx, c, key, strings.Repeat("x", 400), rev)
				time.Sleep(10 * time.Second)
			}
		}()
	}
}

// usage is the CPU time a process has used and the bytes it made dirty.
func usage(b *testing.B, pid int) (cpu time.Duration, written int64) {
	b.Helper()
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, thread := range threads {
		var ns int64
		if data, err := os.ReadFile(thread); err == nil { // else it has ended
			fmt.Sscan(string(data), &ns)
			cpu += time.Duration(ns)
		}
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\nwrite_bytes: ")
	fmt.Sscan(rest, &written)
	return cpu, written
}

// resident is the proportional set size in KiB.
func resident(b *testing.B, pid int) (kib int64) {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "\nPss:")
	fmt.Sscan(rest, &kib)
	return kib
}

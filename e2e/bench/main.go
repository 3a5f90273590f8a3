// Command bench measures brink against the same upstream components as separate
// processes: kube-apiserver, kube-controller-manager, kube-scheduler, kubelet,
// kube-proxy, containerd and kine with SQLite, built from the same go.mod. It
// prints a table of medians with ratios; docs/benchmarks.md says how to read it.
//
// Both sides run one after the other, never at once, each on a machine of its
// own: namespaces, an empty /run and private directories, as in the end-to-end
// tests. The runs alternate, so that whatever else the host does meanwhile
// troubles both. scripts/bench builds what is needed and runs this.
//
// Nodes that join are measured in the same way, beside a brink server that both
// sides join; the pod network against links and routes that are made by hand, with
// all sides there at once and taking turns.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"brink/e2e/machine"
)

// settings are the command line.
type settings struct {
	brink, rival string
	runs         int
	settle, idle time.Duration
	disk         time.Duration
	output       string
	profiles     string
	only         []string // parts
	side         string
	kineEndpoint string
	against      string // another build of brink, "" for none
	load         bool   // beside the two builds one processor is busy

	rounds        int
	round         time.Duration
	networkSettle time.Duration
	networkTest   string
}

// parts are what can be measured, in the order of the report.
var parts = []string{nodePart, networkPart, joinPart, agentPart, peersPart}

const (
	nodePart    = "node"    // a server with a node
	networkPart = "network" // pods of two nodes
	joinPart    = "join"    // an agent's start
	agentPart   = "agent"   // an agent that idles
	peersPart   = "peers"   // what other nodes cost an agent
)

// wants reports whether a part is measured: with -against it is the only one.
func (s settings) wants(part string) bool {
	if s.against != "" || part == againstPart {
		return s.against != "" && part == againstPart
	}
	return len(s.only) == 0 || slices.Contains(s.only, part)
}

func main() {
	if machine.RunJanitor() {
		return
	}
	s, err := parse(os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		err = run(ctx, s)
		stop()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads and checks the command line.
func parse(args []string) (settings, error) {
	var s settings
	fs := s.flags()
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	if s.runs == 0 {
		s.runs = 3
		if s.against != "" {
			s.runs = againstPairs
		}
	}
	if fs.NArg() > 0 || s.runs < 1 {
		return s, fmt.Errorf("takes flags only, and at least one run")
	}
	if err := s.check(); err != nil {
		return s, err
	}
	var errs []error
	for _, path := range []*string{&s.brink, &s.rival, &s.profiles, &s.networkTest, &s.against} {
		var err error
		*path, err = absolute(*path)
		errs = append(errs, err)
	}
	return s, errors.Join(errs...)
}

// flags are those of the command line; parsing them sets s.
func (s *settings) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&s.brink, "brink", "bin/brink", "the `FILE` to measure")
	fs.StringVar(&s.rival, "rival", ".build/rival", "`DIRECTORY` with the programs of the other side")
	fs.StringVar(&s.against, "against", "", "`OLD` build of brink to compare with, and nothing else: a file (scripts/bench also takes a commit); fails when a median is worse by 5 % and more than the old build's own runs differ")
	fs.BoolVar(&s.load, "load", false, "with -against: keep one processor busy meanwhile")
	fs.IntVar(&s.runs, "runs", 0, fmt.Sprintf("`NUMBER` of runs of each side; the table has their medians (default: 3, %d with -against)", againstPairs))
	fs.DurationVar(&s.settle, "settle", 2*time.Minute, "`TIME` from the first pod to the look at memory")
	fs.DurationVar(&s.idle, "idle", 2*time.Minute, "`TIME` after that over which CPU is counted")
	fs.DurationVar(&s.disk, "disk", 20*time.Minute, "`TIME` from then on over which disk writes are counted, in the first run of each side: longer than what brink keeps back before it writes")
	fs.StringVar(&s.output, "o", "", "`FILE` to which the table is also written")
	fs.StringVar(&s.profiles, "profiles", "", "`DIRECTORY` for heap and CPU profiles of the idle brink of the first run")
	fs.Func("only", "`PARTS` to measure, by commas: "+strings.Join(parts, ", ")+" (default: all)", func(text string) error {
		s.only = strings.Split(text, ",")
		return nil
	})
	fs.StringVar(&s.side, "side", "", "`SIDE` to run alone: brink or separate; the network is always measured on both")
	fs.IntVar(&s.rounds, "rounds", 15, "`NUMBER` of rounds of each side of the network")
	fs.DurationVar(&s.round, "round", 2*time.Second, "`TIME` for which a round sends")
	fs.DurationVar(&s.networkSettle, "network-settle", 30*time.Second, "`TIME` from the first stream between pods to the first round")
	fs.StringVar(&s.networkTest, "network-test", ".build/network.test", "`FILE` with the tests of package network/overlay, which measure the cost of peers")
	fs.StringVar(&s.kineEndpoint, "kine-endpoint", "", "`URL` of the other side's kine (default: kine's own, SQLite that does not wait for the disk)")
	return fs
}

// check refuses flags that do not go together or have no meaning.
func (s settings) check() error {
	if s.against == "" && s.load {
		return errors.New("-load: belongs to -against")
	}
	if s.against != "" && (len(s.only) > 0 || s.side != "") {
		return errors.New("-against: compares two builds of brink and nothing else, so neither -only nor -side goes with it")
	}
	if s.disk < s.idle {
		return fmt.Errorf("-disk=%s: must not be shorter than -idle=%s, with which it begins", s.disk, s.idle)
	}
	if s.side != "" && s.side != brinkName && s.side != separateName {
		return fmt.Errorf("-side=%s: must be %s or %s", s.side, brinkName, separateName)
	}
	for _, part := range s.only {
		if !slices.Contains(parts, part) {
			return fmt.Errorf("-only=%s: must be of %s", part, strings.Join(parts, ", "))
		}
	}
	if s.rounds < 1 {
		return fmt.Errorf("-rounds=%d: at least one", s.rounds)
	}
	return nil
}

func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

func run(ctx context.Context, s settings) error {
	if os.Getuid() != 0 {
		return errors.New("makes namespaces and runs containers: run it as root")
	}
	var err error
	if janitor, err = machine.StartJanitor(""); err != nil {
		return err
	}
	defer janitor.Close()
	binary, held, err := openBinary(s.brink)
	if err != nil {
		return err
	}
	defer binary.Close()
	s.brink = held
	if s.against != "" {
		old, held, err := openBinary(s.against)
		if err != nil {
			return err
		}
		defer old.Close()
		s.against = held
	}
	// The packages that make the other side's certificates log every one.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	progress := slog.New(slog.NewTextHandler(os.Stderr, nil))
	r := report{settings: s, begun: time.Now()}
	if r.versions, err = versions(s); err != nil {
		return err
	}
	for _, part := range append(slices.Clone(parts), againstPart) {
		if !s.wants(part) {
			continue
		}
		if err := r.measure(ctx, progress, part); err != nil {
			return fmt.Errorf("measuring %s: %w", part, err)
		}
	}
	return r.publish()
}

// measure adds a part to the report.
func (r *report) measure(ctx context.Context, log *slog.Logger, part string) error {
	switch part {
	case nodePart:
		return r.eachRun(log, &r.node, func(log *slog.Logger, side side, first bool) (sample, error) {
			return measureNode(ctx, log, r.settings, side, first)
		})
	case networkPart:
		for _, p := range pairings {
			one, err := measureNetwork(ctx, log, r.settings, p)
			if err != nil {
				return fmt.Errorf("%s: %w", p.backend, err)
			}
			r.network = append(r.network, one)
		}
		return nil
	case joinPart:
		return r.measureJoins(ctx, log)
	case againstPart:
		return r.measureAgainst(ctx, log)
	case agentPart:
		return r.eachRun(log, &r.joined, func(log *slog.Logger, side side, first bool) (sample, error) {
			return measureAgent(ctx, log, r.settings, side, first)
		})
	default:
		var err error
		r.peers, err = measurePeers(ctx, r.settings.networkTest)
		return err
	}
}

// eachRun measures all runs of both sides in turn.
func (r *report) eachRun(log *slog.Logger, into *comparison, measure func(*slog.Logger, side, bool) (sample, error)) error {
	for i := range r.settings.runs {
		for _, side := range sides {
			if r.settings.side != "" && r.settings.side != side.name {
				continue
			}
			one, err := measure(log.With("run", fmt.Sprintf("%d/%d", i+1, r.settings.runs), "side", side.name), side, i == 0)
			if err != nil {
				return fmt.Errorf("run %d of %s: %w", i+1, side.name, err)
			}
			into.add(side.name, one)
		}
	}
	return nil
}

// measureNode measures one run of a side. The other side is also asked to create
// objects as durably as brink does.
func measureNode(ctx context.Context, log *slog.Logger, s settings, side side, first bool) (sample, error) {
	one, err := measure(ctx, log, s, side.newNode, first)
	if err != nil || side.name != separateName || s.kineEndpoint != "" {
		return one, err
	}
	more, err := measureDurable(ctx, log.With("kine", "waits for the disk"), s)
	maps.Copy(one, more)
	return one, err
}

// publish prints the report and writes it to the file of -o. A bar that a build
// must keep against another one and did not is an error.
func (r report) publish() error {
	text, err := r.markdown()
	if err != nil {
		return err
	}
	_, err = io.WriteString(os.Stdout, text)
	if r.settings.output != "" {
		err = errors.Join(err, os.WriteFile(r.settings.output, []byte(text), 0o644))
	}
	_, missed := againstRows(r.against)
	return errors.Join(err, missed)
}

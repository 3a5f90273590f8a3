package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// peerBenchmark is package network's own measurement, in a namespace with many
// peers and no kubelet.
const peerBenchmark = "BenchmarkOneMorePeer"

// peerCost is a line of it.
type peerCost struct{ Name, Time, Allocated string }

func measurePeers(ctx context.Context, test string) ([]peerCost, error) {
	cmd := exec.CommandContext(ctx, test, "-test.run", "^$", "-test.bench", peerBenchmark)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s%s; scripts/bench builds it", err, out, stderr.Bytes())
	}
	costs := parseBenchmark(string(out))
	if len(costs) == 0 {
		return nil, errors.New(test + " has no " + peerBenchmark)
	}
	return costs, nil
}

// parseBenchmark reads what go test prints of benchmarks: a name with the number
// of processors, a number of repetitions, then values with their units.
func parseBenchmark(text string) []peerCost {
	var out []peerCost
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		words := strings.Fields(s.Text())
		if len(words) < 4 || !strings.HasPrefix(words[0], peerBenchmark+"/") {
			continue
		}
		name := strings.TrimPrefix(words[0], peerBenchmark+"/")
		if i := strings.LastIndex(name, "-"); i > 0 {
			name = name[:i]
		}
		cost := peerCost{Name: strings.ReplaceAll(name, "/", ", ")}
		for i := 2; i+1 < len(words); i += 2 {
			value, err := strconv.ParseFloat(words[i], 64)
			switch {
			case err != nil:
			case words[i+1] == "ns/op":
				cost.Time = shortened(time.Duration(value)).String()
			case words[i+1] == "B/op":
				cost.Allocated = fmt.Sprintf("%.1f kB", value/1e3)
			}
		}
		out = append(out, cost)
	}
	return out
}

// shortened leaves a few digits that mean something.
func shortened(d time.Duration) time.Duration {
	switch {
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d > time.Microsecond:
		return d.Round(time.Microsecond)
	}
	return d
}

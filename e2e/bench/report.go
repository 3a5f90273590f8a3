package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/template"
	"time"

	"brink/internal/host"
)

// metric is a row of the table.
type metric struct {
	key, title string
	format     func(float64) string
}

var nodeMetrics = []metric{
	{"ready", "Start to Ready, new data directory", seconds},
	{"firstpod", "Start to first pod Ready, its image imported on the way", seconds},
	{"restart", "Start to Ready, existing data", seconds},
	{"pss", "Memory, PSS", megabytes},
	{"anon", "Memory, anonymous", megabytes},
	{"usedpss", "Memory after a kubectl apply, PSS", megabytes},
	{"usedanon", "Memory after a kubectl apply, anonymous", megabytes},
	{"shims", "Memory of the shim of the one pod, PSS", megabytes},
	{"cpu", "CPU when idle, of a core", percent},
	{"disk", "Written to disk when idle, an hour", megabytes},
	{"pods", fmt.Sprintf("%d pods of a Deployment Ready", manyPods), seconds},
	{"create50", "Create a ConfigMap, p50", milliseconds},
	{"create99", "Create a ConfigMap, p99", milliseconds},
	{"durable50", "Create a ConfigMap, kine waiting for the disk too, p50", milliseconds},
	{"durable99", "Create a ConfigMap, kine waiting for the disk too, p99", milliseconds},
	{"list50", "List 1,000 ConfigMaps, p50", milliseconds},
	{"list99", "List 1,000 ConfigMaps, p99", milliseconds},
	{"size", "Size of the programs", megabytes},
	{"others", "(CPU of everything else meanwhile, of a core)", percent},
}

// unsaved is in the sample of a brink that did not save leases and events in the
// time over which disk writes were counted.
const unsaved = "unsaved"

func seconds(v float64) string      { return fmt.Sprintf("%.2f s", v) }
func milliseconds(v float64) string { return fmt.Sprintf("%.2f ms", v*1e3) }
func percent(v float64) string      { return fmt.Sprintf("%.2f %%", v*100) }
func gigabits(v float64) string     { return fmt.Sprintf("%.2f Gbit/s", v*8/1e9) }
func microseconds(v float64) string { return fmt.Sprintf("%.1f µs", v*1e6) }
func megabytes(v float64) string    { return fmt.Sprintf("%.1f MB", v/1e6) }

// comparison is what was measured on sides, by their names.
type comparison struct {
	samples map[string][]sample
}

func (c *comparison) add(side string, one sample) {
	if c.samples == nil {
		c.samples = map[string][]sample{}
	}
	c.samples[side] = append(c.samples[side], one)
}

// values are those of one side for one metric, in the order of the runs.
func (c comparison) values(side, key string) []float64 {
	var out []float64
	for _, s := range c.samples[side] {
		if v, ok := s[key]; ok {
			out = append(out, v)
		}
	}
	return out
}

// report is everything that was measured.
type report struct {
	settings settings
	begun    time.Time
	versions string
	node     comparison
	network  []networkResult
	joined   comparison
	peers    []peerCost
	against  comparison
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// row is a metric with the median of each side and all runs in short.
type row struct{ Title, Brink, Separate, Ratio, Runs string }

func (c comparison) rows(metrics []metric) []row {
	var out []row
	for _, m := range metrics {
		b, s := c.values(brinkName, m.key), c.values(separateName, m.key)
		title := m.title
		if m.key == "disk" && len(c.values(brinkName, unsaved)) > 0 {
			title += " (not valid: brink saved nothing in that time, -disk is too short)"
		}
		out = append(out, row{
			Title: title, Brink: cell(m, b), Separate: cell(m, s), Ratio: ratio(m, b, s),
			Runs: spread(m, b) + " / " + spread(m, s),
		})
	}
	return out
}

func cell(m metric, values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	return m.format(median(values))
}

// ratio is brink's share of the other's figure: below 1 is better.
func ratio(m metric, brink, separate []float64) string {
	if m.key == "others" || len(brink) == 0 || len(separate) == 0 || median(separate) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", median(brink)/median(separate))
}

// spread is the least and the most of all runs.
func spread(m metric, values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	least, most := m.format(slices.Min(values)), m.format(slices.Max(values))
	if least == most {
		return most
	}
	return strings.Fields(least)[0] + "–" + most
}

var page = template.Must(template.New("").Parse(`
{{- define "sides"}}| | brink | separate processes | ratio | least–most, brink / separate |
|---|---:|---:|---:|---|
{{range .}}| {{.Title}} | {{.Brink}} | {{.Separate}} | {{.Ratio}} | {{.Runs}} |
{{end}}
{{end}}
{{- with .Node}}{{template "sides" .}}{{end}}
{{- with .Network}}| TCP between pods of two nodes | brink | by hand | ratio | bar | least–most of {{$.Rounds}} rounds, brink / by hand |
|---|---:|---:|---:|---|---|
{{range .}}| {{.Title}} | {{.Brink}} | {{.Hand}} | {{.Ratio}} | {{.Bar}} | {{.Rounds}} |
{{end}}
{{end}}
{{- with .Joined}}{{template "sides" .}}{{end}}
{{- with .Peers}}| One more peer | time | allocated |
|---|---:|---:|
{{range .}}| {{.Name}} | {{.Time}} | {{.Allocated}} |
{{end}}
{{end -}}
{{- with .Against}}| | new build | old build | ratio | bar | least–most, new / old |
|---|---:|---:|---:|---|---|
{{range .}}| {{.Title}} | {{.New}} | {{.Old}} | {{.Ratio}} | {{.Bar}} | {{.Runs}} |
{{end}}
{{end -}}
- Command: ` + "`{{.Command}}`" + `, {{.Date}}
- Host: {{.Host}}
- Versions: {{.Versions}}
`))

// rowsOf leaves out a table of which nothing was measured.
func rowsOf(c comparison, metrics []metric) []row {
	if len(c.samples) == 0 {
		return nil
	}
	return slices.DeleteFunc(c.rows(metrics), func(r row) bool { return r.Brink == "-" && r.Separate == "-" })
}

func (r report) markdown() (string, error) {
	facts, err := host.Look()
	if err != nil {
		return "", err
	}
	var network []networkRow
	for _, n := range r.network {
		network = append(network, n.rows()...)
	}
	against, _ := againstRows(r.against)
	var out strings.Builder
	err = page.Execute(&out, map[string]any{
		"Against": against,
		"Node":    rowsOf(r.node, nodeMetrics),
		"Network": network,
		"Rounds":  r.settings.rounds,
		"Joined":  rowsOf(r.joined, joinedMetrics),
		"Peers":   r.peers,
		"Command": strings.Join(append([]string{"scripts/bench"}, os.Args[1:]...), " "),
		"Date":    r.begun.UTC().Format("2006-01-02 15:04 MST"),
		"Host": fmt.Sprintf("%d cores, %.1f GB memory, Linux %s, %s, cgroup v%d",
			runtime.NumCPU(), float64(facts.Memory)/1e9, facts.Kernel, facts.Arch, facts.Cgroup.Version),
		"Versions": r.versions,
	})
	return out.String(), err
}

// versions are those built into the measured programs. They must be the same on
// both sides, or the table compares releases.
func versions(s settings) (string, error) {
	ours, err := modulesOf(s.brink)
	if err != nil {
		return "", err
	}
	if s.against != "" {
		old, err := modulesOf(s.against)
		return "new build " + ours[""] + ", old build " + old[""], err
	}
	var out []string
	for path, program := range map[string]string{
		"k8s.io/kubernetes": "kubelet", "github.com/containerd/containerd/v2": "containerd", "github.com/k3s-io/kine": "kine",
	} {
		theirs, err := modulesOf(filepath.Join(s.rival, program))
		if err != nil {
			return "", err
		}
		if ours[path] != theirs[path] {
			return "", fmt.Errorf("brink has %s %s but %s is built from %s: run scripts/bench, which builds both", path, ours[path], program, theirs[path])
		}
		out = append(out, filepath.Base(strings.TrimSuffix(path, "/v2"))+" "+ours[path])
	}
	slices.Sort(out)
	return strings.Join(append(out, ours[""]), ", "), nil
}

// modulesOf are the versions of the modules in a program, its own included;
// under "" is Go's.
func modulesOf(path string) (map[string]string, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	out := map[string]string{"": info.GoVersion, info.Main.Path: info.Main.Version}
	for _, m := range info.Deps {
		out[m.Path] = m.Version
	}
	return out, nil
}

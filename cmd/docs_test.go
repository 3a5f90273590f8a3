package cmd

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"brink/internal/testdocs"
)

// TestDocs: the documentation says of flags what the flags are. With -update it
// writes the pages.
func TestDocs(t *testing.T) {
	t.Parallel()
	testdocs.Part(t, "docs/configuration.md", "settings", settingsPart())
	testdocs.Part(t, "docs/configuration.md", "commands", commandsPart())
	testdocs.Part(t, "docs/coming-from-k3s.md", "flags", k3sFlagsPart())
	testdocs.Part(t, "docs/coming-from-k3s.md", "backends", backendsPart())
	testdocs.Part(t, "docs/coming-from-k3s.md", "components", componentsPart())
}

// documented is a flag as a page shows it.
type documented struct {
	names     []string
	env       []string
	category  string
	usage     string
	value     string // its default
	takesMany bool
	takes     string // FILE, "" for a switch
}

func documentedOf(f cli.Flag) documented {
	shown := f.(cli.DocGenerationFlag)
	d := documented{names: f.Names(), env: shown.GetEnvVars(), usage: shown.GetUsage()}
	switch f := f.(type) {
	case *cli.StringFlag:
		d.category, d.value, d.takes = f.Category, f.Value, "VALUE"
	case *cli.IntFlag:
		d.category, d.value, d.takes = f.Category, fmt.Sprint(f.Value), "NUMBER"
	case *cli.StringSliceFlag:
		d.category, d.value, d.takes, d.takesMany = f.Category, strings.Join(f.Value.Value(), ","), "VALUE", true
	case *cli.DurationFlag:
		d.category, d.takes = f.Category, "TIME"
	case *cli.BoolFlag:
		d.category = f.Category
	default:
		panic(fmt.Sprintf("a flag of type %T, which this test does not know", f))
	}
	if _, rest, ok := strings.Cut(d.usage, "`"); ok {
		d.takes, _, _ = strings.Cut(rest, "`")
		d.usage = strings.ReplaceAll(d.usage, "`", "")
	}
	return d
}

// title is the flag as somebody types it.
func (d documented) title() string {
	names := slices.Clone(d.names)
	for i, name := range names {
		names[i] = "--" + name
		if len(name) == 1 {
			names[i] = "-" + name
		}
	}
	return "`" + strings.TrimSpace(strings.Join(names, "`, `")+" "+d.takes) + "`"
}

// meaning is the usage, with what the other columns do not show.
func (d documented) meaning() string {
	out := d.usage
	if want := []string{"BRINK_" + strings.ToUpper(strings.ReplaceAll(d.names[0], "-", "_"))}; len(d.env) > 0 && !slices.Equal(d.env, want) {
		out += "; in the environment `" + strings.Join(d.env, "` or `") + "`"
	}
	if d.takesMany {
		out += "; a list"
	}
	return out
}

// takenBy is which of the two commands takes a flag.
func takenBy(server, agent bool) string {
	switch {
	case server && agent:
		return "both"
	case agent:
		return "agent"
	}
	return "server"
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// settingsPart is a table for each group of flags.
func settingsPart() string {
	server, agent := namesOf(serverFlags()), namesOf(agentFlags())
	rows := map[string][][]string{}
	var groups []string
	for _, f := range allFlags() {
		d := documentedOf(f)
		if _, ok := rows[d.category]; !ok {
			groups = append(groups, d.category)
		}
		name := d.names[0]
		rows[d.category] = append(rows[d.category], []string{d.title(), code(d.value), takenBy(server[name], agent[name]), d.meaning()})
	}
	var b strings.Builder
	for _, group := range groups {
		fmt.Fprintf(&b, "### %s\n\n%s\n", group, testdocs.Table([]string{"flag", "default", "of", "meaning"}, rows[group]))
	}
	return b.String()
}

func namesOf(flags []cli.Flag) map[string]bool {
	out := map[string]bool{}
	for _, f := range flags {
		out[f.Names()[0]] = true
	}
	return out
}

// commandsPart lists the flags of commands that do not run a node. Those that are
// settings of a node too are explained there.
func commandsPart() string {
	node := namesOf(allFlags())
	var rows [][]string
	eachCommand(newApp(os.Exit).Commands, "", func(path string, c *cli.Command) {
		if path == "server" || path == "agent" {
			return
		}
		var flags []string
		below, isCheck := strings.CutPrefix(path, "check")
		if isCheck {
			flags = []string{"all of " + cmp.Or(code(strings.TrimSpace(below)), "`server` and `agent`")}
		}
		for _, f := range c.Flags {
			d := documentedOf(f)
			shown, ok := f.(cli.VisibleFlag)
			switch {
			case ok && !shown.IsVisible(), isCheck && node[d.names[0]]:
			case node[d.names[0]]:
				flags = append(flags, d.title())
			default:
				flags = append(flags, d.title()+": "+d.usage+defaultOf(d))
			}
		}
		rows = append(rows, []string{code(strings.TrimSpace(path + " " + c.ArgsUsage)), c.Usage, strings.Join(flags, "<br>")})
	})
	return testdocs.Table([]string{"command", "", "flags"}, rows)
}

func defaultOf(d documented) string {
	if d.value == "" {
		return ""
	}
	return " (" + code(d.value) + ")"
}

// eachCommand visits commands that do something, with what is typed to get there.
func eachCommand(commands []*cli.Command, above string, visit func(path string, c *cli.Command)) {
	for _, c := range commands {
		path := strings.TrimSpace(above + " " + c.Name)
		isRun := len(c.Subcommands) == 0 || path == "check"
		if isRun && !c.Hidden {
			visit(path, c)
		}
		eachCommand(c.Subcommands, path, visit)
	}
}

// TestK3sFlags: a flag that brink has is the same one, and one that it has not has
// something to be said of it.
func TestK3sFlags(t *testing.T) {
	t.Parallel()
	have := map[string]bool{}
	for _, f := range allFlags() {
		for _, name := range f.Names() {
			have[name] = true
		}
	}
	seen := map[string]bool{}
	for _, f := range k3sFlags {
		for _, name := range f.names {
			if seen[name] {
				t.Errorf("%s is listed twice", name)
			}
			seen[name] = true
			if have[name] == (f.kind == "none" || f.kind == "renamed") {
				t.Errorf("--%s is listed as %q; is it a flag of brink's: %v", name, f.kind, have[name])
			}
		}
		if (f.kind == "same") != (f.note == "") {
			t.Errorf("%v is listed as %q with the note %q", f.names, f.kind, f.note)
		}
	}
}

func k3sFlagsPart() string {
	var rows [][]string
	order := []string{"same", "differs", "renamed", "none"}
	sorted := slices.Clone(k3sFlags)
	slices.SortStableFunc(sorted, func(a, b k3sFlag) int {
		return cmp.Compare(slices.Index(order, a.kind), slices.Index(order, b.kind))
	})
	for _, f := range sorted {
		rows = append(rows, []string{"`--" + strings.Join(f.names, "`, `--") + "`", f.kind, f.note})
	}
	return testdocs.Table([]string{"k3s", "in brink", ""}, rows)
}

func backendsPart() string {
	var rows [][]string
	for _, name := range backends {
		rows = append(rows, []string{code(name), "same"})
	}
	for _, name := range slices.Sorted(maps.Keys(foreignBackends)) {
		rows = append(rows, []string{code(name), "refused: " + foreignBackends[name]})
	}
	return testdocs.Table([]string{"backend", ""}, rows)
}

// componentsPart lists the flags of components that checkManaged knows, those of one
// option with the same reason in one row.
func componentsPart() string {
	var rows [][]string
	for _, option := range passThrough {
		rowOf := map[string]int{}
		for _, own := range managedFlags[option] {
			said, why := "refused", own.refused
			if own.refused == "" {
				said, why = "no effect", own.ignored
			}
			if own.with != "" {
				said = "refused beside `--" + own.with + "`"
			}
			if i, ok := rowOf[said+why]; ok {
				rows[i][1] += ", " + code(own.name)
				continue
			}
			rowOf[said+why] = len(rows)
			rows = append(rows, []string{code("--" + option), code(own.name), said, why})
		}
	}
	return testdocs.Table([]string{"option", "flags", "", "reason, or what to do instead"}, rows)
}

// flagInText is a flag as pages write it.
var flagInText = regexp.MustCompile(`--([a-z][a-z0-9-]+)`)

// othersFlags are flags in the documentation that are other programs': kubectl's,
// scripts' and Kubernetes' components'.
var othersFlags = []string{"bump-revision", "ignore-missing", "image", "kubeconfig", "long", "mark-compacted", "now", "port", "system", "type", "unix-socket"}

// TestFlagsInDocs: a page names no flag that brink has not. Tables of k3s's flags and
// of commands of others aside.
func TestFlagsInDocs(t *testing.T) {
	t.Parallel()
	have := map[string]bool{"help": true, "version": true}
	for _, f := range allFlags() {
		for _, name := range f.Names() {
			have[name] = true
		}
	}
	eachCommand(newApp(os.Exit).Commands, "", func(_ string, c *cli.Command) {
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				have[name] = true
			}
		}
	})
	root := testdocs.Root(t)
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, filepath.Join(root, "README.md")) {
		if base := filepath.Base(page); base == "coming-from-k3s.md" || strings.HasPrefix(base, "benchmarks") {
			continue
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range flagInText.FindAllStringSubmatch(string(text), -1) {
			if !have[found[1]] && !slices.Contains(othersFlags, found[1]) {
				t.Errorf("%s names --%s, which brink has not", filepath.Base(page), found[1])
			}
		}
	}
}

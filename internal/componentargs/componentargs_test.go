package componentargs

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestParse(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name            string
		defaults, extra []string
		level           int
		plugins         []string
		on              bool
		err             string
	}{
		{name: "defaults alone", defaults: []string{"level=3", "plugins=a"}, level: 3, plugins: []string{"a"}},
		{name: "the user wins", defaults: []string{"level=3"}, extra: []string{"level=5"}, level: 5},
		{name: "dashes are optional", extra: []string{"--level=5"}, level: 5},
		{name: "underscores as in the components", extra: []string{"is_on=true"}, on: true},
		{name: "a list replaces the default list", defaults: []string{"plugins=a"}, extra: []string{"plugins=b", "plugins=c"}, plugins: []string{"b", "c"}},
		{name: "a switch needs no value", extra: []string{"is-on"}, on: true},
		{name: "unknown", extra: []string{"levle=5"}, err: `--x-arg=levle=5: there is no flag "levle"`},
		{name: "bad value", extra: []string{"level=high"}, err: "--x-arg=level=high"},
		{name: "empty", extra: []string{""}, err: "there is no flag"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
			level := fs.Int("level", 0, "")
			plugins := fs.StringSlice("plugins", nil, "")
			on := fs.Bool("is-on", false, "")
			err := Parse(fs, "x-arg", c.defaults, c.extra)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if *level != c.level || !slices.Equal(*plugins, c.plugins) || *on != c.on {
				t.Errorf("level=%d plugins=%v on=%v", *level, *plugins, *on)
			}
		})
	}
}

func TestPort(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		args []string
		want uint16
	}{
		{"nothing given", nil, 10250},
		{"another flag", []string{"max-pods=5"}, 10250},
		{"a number", []string{"port=10260"}, 10260},
		{"dashes in front, the last wins", []string{"port=1", "--port=10261"}, 10261},
		{"an address", []string{"port=127.0.0.1:10262"}, 10262},
		{"an IPv6 address", []string{"port=[::1]:10263"}, 10263},
		{"no number: the component will say so", []string{"port=many"}, 10250},
	}
	for _, c := range cases {
		if got := Port(c.args, "port", 10250); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

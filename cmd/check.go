package cmd

import (
	"fmt"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"brink/agent"
	"brink/cmd/node"
	"brink/cmd/node/upgrade"
	"brink/internal/host"
	"brink/server/snapshot"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:     "check",
		Usage:    "check whether this machine can be a node, before it is one and while it runs",
		Category: "Look",
		Description: "Takes the flags and the configuration file of `brink server`, or of `brink agent` when --server is\n" +
			"among them. `brink check server` and `brink check agent` refuse flags that the other one has.\n" +
			"Exits with 1 when something fails that keeps a node from working; warnings do not.",
		Flags:  append(allFlags(), outputFlag()),
		Action: checkAction(allFlags(), func(c *cli.Context) bool { return c.IsSet("server") }),
		Subcommands: []*cli.Command{
			checkAs("server", serverFlags(), false),
			checkAs("agent", agentFlags(), true),
		},
	}
}

// checkAs is `brink check` for one of the two kinds of nodes.
func checkAs(kind string, flags []cli.Flag, isAgent bool) *cli.Command {
	return &cli.Command{
		Name:         kind,
		Usage:        "check as brink " + kind + " would, with its flags",
		Flags:        append(flags, outputFlag()),
		Action:       checkAction(flags, func(*cli.Context) bool { return isAgent }),
		OnUsageError: usageError,
	}
}

func checkAction(flags []cli.Flag, isAgent func(*cli.Context) bool) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() > 0 {
			return noSuchCommand(c)
		}
		asJSON, err := wantsJSON(c)
		if err != nil {
			return err
		}
		checks, err := runChecks(c, flags, isAgent)
		if err != nil {
			return err
		}
		return printChecks(checks, asJSON)
	}
}

// runChecks checks the machine for `brink server` or for `brink agent`. Which one may follow
// from the configuration file.
func runChecks(c *cli.Context, flags []cli.Flag, isAgent func(*cli.Context) bool) ([]host.Check, error) {
	if err := applyConfigFile(c, flags); err != nil {
		return nil, err
	}
	read := readServer
	if isAgent(c) {
		// Keys that an agent does not know are an error for it.
		if _, err := readConfigFile(c, agentFlags()); err != nil {
			return nil, err
		}
		read = readAgent
	}
	cfg, err := read(c)
	if err != nil {
		return nil, err
	}
	if err := node.CheckSettings(cfg); err != nil {
		return nil, err
	}
	values, err := readConfigFile(c, flags)
	if err != nil {
		return nil, err
	}
	facts, err := host.Look()
	if err != nil {
		return nil, err
	}
	status, _ := node.AskStatus(c.Context, cfg.Layout) // no brink running is fine
	checks := slices.Concat(node.HostChecks(cfg, status.PID), checkSecretFiles(c, values), node.OtherNetworks(cfg))
	if cfg.Agent != nil {
		checks = append(checks, agent.CheckReserved(facts, cfg.Server != nil, cfg.Agent.KubeletArgs))
	}
	return append(checks, checkVersion(cfg)...), nil
}

// checkVersion returns failed checks if this brink must not take the place of the one that was
// there: an installer asks by them before it replaces anything.
func checkVersion(cfg node.Config) (out []host.Check) {
	if last, err := upgrade.Read(cfg.Layout); err == nil && last.IsUnderWay() {
		out = append(out, host.Check{Name: "upgrade", Result: host.Fail, Message: last.Lines()[0], Fix: "wait for its end, which brink status tells"})
	}
	if cfg.Server == nil {
		return out
	}
	used, err := snapshot.ReadState(cfg.Layout)
	if err == nil {
		err = node.OwnState().CanRead(used)
	}
	if err != nil {
		out = append(out, host.Check{Name: "version", Result: host.Fail, Message: fmt.Sprintf("%s: %v", cfg.Layout.Data(), err)})
	}
	return out
}

func printChecks(checks []host.Check, asJSON bool) error {
	failed := 0
	for _, check := range checks {
		if check.Result == host.Fail {
			failed++
		}
	}
	if asJSON {
		if err := printJSON(checks); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		for _, check := range checks {
			fmt.Fprintf(w, "%s\t%s\t%s\n", check.Result, check.Name, withFix(check))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checks))
	}
	return nil
}

func withFix(check host.Check) string {
	if check.Fix == "" {
		return check.Message
	}
	return check.Message + ": " + check.Fix
}

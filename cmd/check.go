package cmd

import (
	"fmt"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"brink/agent"
	"brink/cmd/node"
	"brink/internal/host"
)

func checkCommand() *cli.Command {
	flags := allFlags()
	return &cli.Command{
		Name:     "check",
		Usage:    "look whether this machine can be a node, before and after",
		Category: "Look",
		Description: "Takes the flags and the configuration file of `brink server`, or of `brink agent` when --server is\n" +
			"among them. Exits with 1 when something fails that keeps a node from working; warnings do not.",
		Flags: append(flags, outputFlag()),
		Action: func(c *cli.Context) error {
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			if err := applyConfigFile(c, flags); err != nil {
				return err
			}
			read := readSettings
			if c.IsSet("server") {
				// What an agent does not take is an error for it.
				if _, err := readConfigFile(c, agentFlags()); err != nil {
					return err
				}
				read = readAgentSettings
			}
			s, err := read(c)
			if err != nil {
				return err
			}
			if err := node.CheckSettings(s); err != nil {
				return err
			}
			values, err := readConfigFile(c, flags)
			if err != nil {
				return err
			}
			facts, err := host.Look()
			if err != nil {
				return err
			}
			status, _ := node.AskStatus(c.Context, s.Layout) // no brink running is fine
			checks := slices.Concat(node.HostChecks(s, status.PID), checkSecretFiles(c, values), node.OtherNetworks(s))
			if !s.DisableAgent {
				checks = append(checks, agent.CheckReserved(facts, s.Join == nil, s.Agent.KubeletArgs))
			}
			return printChecks(checks, asJSON)
		},
	}
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

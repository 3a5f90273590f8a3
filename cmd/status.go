package cmd

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
	"brink/cmd/node/upgrade"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:     "status",
		Usage:    "show the state of the node on this machine",
		Category: "Look",
		Description: "Exits with 0 when the node is ready, 1 when it is not or when brink does not run.\n" +
			"Components are listed in start order, with how long each has been in its state.",
		Flags: pathFlags(outputFlag()),
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			l, err := locate(c)
			if err != nil {
				return err
			}
			last, lastErr := upgrade.Read(l)
			status, err := node.AskStatus(c.Context, l)
			if err != nil {
				return errors.Join(append([]error{err}, upgradeLines(last, lastErr)...)...)
			}
			if err := printStatus(status, last, asJSON); err != nil {
				return err
			}
			if !status.Ready {
				return fmt.Errorf("node %s is not ready: %s", status.Node, status.WaitingFor())
			}
			return nil
		},
	}
}

// upgradeLines are the lines about the last upgrade, none if there was none.
func upgradeLines(last upgrade.Record, err error) (out []error) {
	if err != nil {
		return nil
	}
	for _, line := range last.Lines() {
		out = append(out, errors.New(line))
	}
	return out
}

func printStatus(s node.Status, last upgrade.Record, asJSON bool) error {
	if asJSON {
		return printJSON(struct {
			node.Status
			Upgrade upgrade.Record `json:"upgrade,omitzero"`
		}{s, last})
	}
	state := "not ready"
	if s.Ready {
		state = "ready"
	}
	fmt.Printf("node %s (%s) is %s, pid %d, up %s\n", s.Node, s.Role, state, s.PID, age(s.Started))
	for _, p := range s.Problems {
		fmt.Println("problem:", p)
	}
	for _, w := range s.Warnings {
		fmt.Println("warning:", w)
	}
	for _, line := range last.Lines() {
		fmt.Println(line)
	}
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "COMPONENT\tSTATE\tSINCE\tDETAIL")
	for _, c := range s.Components {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, c.State, age(c.Since), cmp.Or(c.Error, c.Progress))
	}
	fmt.Fprintln(w, "\t\t\t")
	for _, v := range s.Versions {
		fmt.Fprintf(w, "%s\t%s\t\t\n", v.Name, v.Version)
	}
	return w.Flush()
}

func age(t time.Time) string { return time.Since(t).Truncate(time.Second).String() }

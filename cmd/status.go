package cmd

import (
	"cmp"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"brink/cmd/node"
	"brink/internal/lifecycle"
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
			status, err := node.AskStatus(c.Context, l)
			if err != nil {
				return err
			}
			if err := printStatus(status, asJSON); err != nil {
				return err
			}
			if !status.Ready {
				return fmt.Errorf("node %s is not ready: %s", status.Node, waitingFor(status))
			}
			return nil
		},
	}
}

func printStatus(s node.Status, asJSON bool) error {
	if asJSON {
		return printJSON(s)
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

// waitingFor says why the node is not ready: by the first component that is not, else by
// the first problem.
func waitingFor(s node.Status) string {
	for _, c := range s.Components {
		if c.State != lifecycle.Ready {
			return fmt.Sprintf("%s is %s", c.Name, c.State)
		}
	}
	if len(s.Problems) > 0 {
		return s.Problems[0]
	}
	return "starting"
}

func age(t time.Time) string { return time.Since(t).Truncate(time.Second).String() }

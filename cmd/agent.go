package cmd

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"brink/agent/join"
	"brink/internal/wire/jointoken"
)

func agentCommand(exit func(code int)) *cli.Command {
	flags := agentFlags()
	return &cli.Command{
		Name:     "agent",
		Usage:    "join a cluster and run pods",
		Category: "Run",
		Description: "Runs in the foreground and logs to standard error; `brink: node NAME is Ready` on standard\n" +
			"output says that pods can run. The token, from `brink token create` or the file server/token in\n" +
			"the data directory of a server, is needed the first time. SIGTERM stops it and leaves the pods\n" +
			"running: the next start takes them up again.",
		Flags:  flags,
		Action: runNode(flags, readAgent, exit),
	}
}

// serverOf returns the server to join, as HOST:PORT.
func serverOf(c *cli.Context) (string, error) {
	if c.String("server") == "" {
		return "", errors.New("--server is missing: give the URL of a server of the cluster, such as https://192.0.2.1:6443, also as BRINK_URL or server in the configuration file")
	}
	server, err := join.ParseServer(c.String("server"))
	if err != nil {
		return "", fmt.Errorf("--server=%s: %w", c.String("server"), err)
	}
	return server, nil
}

// tokenOf returns the token to join with, nil when none is given: a machine that has
// joined needs none. What others see of the arguments is overwritten before anything
// else runs (internal/argsecrets), so this string is a copy of its own.
func tokenOf(c *cli.Context) (*jointoken.Token, error) {
	text, from, err := secretOf(c, "token")
	if err != nil {
		return nil, err
	}
	if text == "" {
		return nil, nil
	}
	token, err := jointoken.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return &token, nil
}

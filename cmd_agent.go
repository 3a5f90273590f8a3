package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"github.com/urfave/cli/v2"

	"brink/agent/join"
	"brink/internal/jointoken"
)

func agentCommand() *cli.Command {
	flags := agentFlags()
	return &cli.Command{
		Name:     "agent",
		Usage:    "join a cluster and run pods",
		Category: "Run",
		Description: "Runs in the foreground and logs to standard error; `brink: node NAME is Ready` on standard\n" +
			"output says that pods can run. The token, from `brink token create` or the file server/token in\n" +
			"the data directory of a server, is needed the first time. SIGTERM stops it and leaves the pods\n" +
			"running: the next start takes them up again.",
		Flags: flags,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("brink agent takes no arguments, got %q", c.Args().First())
			}
			if err := applyConfigFile(c, flags); err != nil {
				return err
			}
			start := setGlobals(c.Bool("debug"), verbosity(c))
			settings, err := readAgentSettings(c)
			if err != nil {
				return err
			}
			hideToken()
			return runNode(c.Context, settings, start)
		},
	}
}

// readAgentSettings reads the flags of a machine that joins.
func readAgentSettings(c *cli.Context) (settings, error) {
	s, errs := readNode(c, false)
	server, err := serverOf(c)
	errs = append(errs, err)
	token, tokenErr := tokenOf(c)
	s.join = &join.Config{Server: server, Token: token, TokenError: tokenErr, NodeName: s.agent.NodeName, Layout: s.layout}
	return s, errors.Join(errs...)
}

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

// tokenOf is nil when no token is given: a machine that has joined needs none.
func tokenOf(c *cli.Context) (*jointoken.Token, error) {
	text, from := c.String("token"), "--token"
	if file := c.String("token-file"); file != "" {
		if text != "" {
			return nil, errors.New("--token and --token-file are both given: leave one out")
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("--token-file=%s: %w", file, errors.Unwrap(err))
		}
		text, from = strings.TrimSpace(string(content)), "--token-file="+file
		if text == "" {
			return nil, fmt.Errorf("%s: the file is empty", from)
		}
	}
	if text == "" {
		return nil, nil
	}
	token, err := jointoken.Parse(strings.Clone(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return &token, nil
}

// hideToken keeps the token out of the list of processes, and of the environment
// of what brink starts. The kernel shows a process's arguments from where they
// lie in its memory, which is where Go's os.Args still points.
func hideToken() {
	os.Unsetenv("BRINK_TOKEN")
	for i, arg := range os.Args[1:] {
		previous := os.Args[i] // the one before arg
		switch name, _, hasValue := strings.Cut(arg, "="); {
		case hasValue && isTokenFlag(name):
			overwrite(arg[len(name)+1:])
		case !hasValue && isTokenFlag(previous):
			overwrite(arg)
		}
	}
}

func isTokenFlag(name string) bool {
	switch name {
	case "--token", "-token", "-t", "--t":
		return true
	}
	return false
}

// overwrite changes the bytes of an argument in place. Go's strings of os.Args
// are not copies (runtime.goargs), and the memory is writable (execve(2)).
func overwrite(arg string) {
	if len(arg) == 0 {
		return
	}
	bytes := unsafe.Slice(unsafe.StringData(arg), len(arg))
	for i := range bytes {
		bytes[i] = '*'
	}
}

package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"brink/agent/proxy"
	"brink/agent/uninstall"
	"brink/cmd/node"
	"brink/cmd/node/upgrade"
	"brink/cmd/node/upstream"
	"brink/internal/configfile"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/runtime/payload"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name:     "uninstall",
		Usage:    "remove the node from this machine: pods, mounts, network, cgroups and files",
		Category: "Run",
		Description: "Stops brink if it runs, and takes its service out of systemd or OpenRC. Removes what brink made, and only that; it names what stays, with the\n" +
			"reason, and can be run again. Volumes' contents, the configuration in " + layout.ConfigDir + "\n" +
			"and kernel settings that others have changed since stay. The data directory is that of the configuration file unless given.",
		Flags: []cli.Flag{
			dataDirFlag(),
			configFlag(),
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "keep-data", Usage: "take down pods, mounts, network and cgroups, keep all files: the next start brings the node back"},
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			l, err := installedLayout(c)
			if err != nil {
				return err
			}
			return runUninstall(c.Context, l, c.Bool("keep-data"), c.Bool("yes"))
		},
	}
}

// installedLayout returns the layout by --data-dir, else by data-dir in the configuration
// file.
func installedLayout(c *cli.Context) (layout.Layout, error) {
	if !c.IsSet("data-dir") {
		values, err := readConfigFile(c, allFlags())
		if err != nil {
			return layout.Layout{}, fmt.Errorf("%w\nto uninstall without the configuration file give --data-dir", err)
		}
		isOther := func(v configfile.Value) bool { return v.Key != "data-dir" }
		if err := configfile.Apply(slices.DeleteFunc(values, isOther), c.IsSet, c.Set); err != nil {
			return layout.Layout{}, err
		}
	}
	dir, err := dataDir(c)
	return datadir.Locate(dir), err
}

func runUninstall(ctx context.Context, l layout.Layout, keepData, yes bool) error {
	if os.Geteuid() != 0 {
		return errors.New("only root may uninstall: use sudo")
	}
	if err := uninstall.CheckDataDir(l); err != nil {
		return err
	}
	removeNFT, err := findNFT(l)
	if err != nil {
		return err
	}
	defer removeNFT()
	if !uninstall.Installed(l) {
		fmt.Println("nothing of brink is here: no data in", l.Data())
		return nil
	}
	if !yes {
		if err := confirm(ctx, l, keepData); err != nil {
			return err
		}
	}
	if err := upgrade.Abandon(ctx, l); err != nil {
		return err
	}
	unlock, err := node.TakeOver(ctx, l, node.Stopping{Uses: usesDataDir(l), Forever: !keepData})
	if err != nil {
		return err
	}
	defer unlock()
	upstream.LogWarningsOnly() // what is removed is told below, in this command's words
	guest := uninstall.NodeLeftBehind(l)
	err = uninstall.Run(ctx, uninstall.Config{
		Layout: l, KeepData: keepData, RemoveProxy: proxy.Remove, RemovePrograms: payload.Remove,
		Removed: func(what string) { fmt.Println("removed", what) },
		Kept:    func(what string) { fmt.Println("kept", what) },
	})
	tellKept(l, keepData)
	if guest != "" && !keepData {
		fmt.Printf("the cluster still has the node, unless somebody removed it: kubectl delete node %s\n", guest)
	}
	return err
}

// findNFT makes sure that nft is found by its name, by which rules are removed: where the
// machine has none, brink's own, which is unpacked for this until the returned function is
// called.
func findNFT(l layout.Layout) (remove func(), err error) {
	if _, err := exec.LookPath("nft"); err == nil || payload.NFTVersion() == "" {
		return func() {}, nil
	}
	dir, remove, err := payload.UnpackNFT(l.Payload())
	if err != nil {
		return nil, err
	}
	return remove, os.Setenv("PATH", os.Getenv("PATH")+string(os.PathListSeparator)+dir)
}

// confirm asks at a terminal. Without one it returns an error, and nothing is removed.
func confirm(ctx context.Context, l layout.Layout, keepData bool) error {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return errors.New("there is no terminal to ask at: give --yes")
	}
	what := "the cluster's state, images, volumes and all else that brink keeps in " + l.Data()
	if keepData {
		what = "but keeps the files in " + l.Data()
	}
	fmt.Printf("This stops brink, ends all of its pods and removes %s.\nType yes to go on: ", what)
	if strings.TrimSpace(readLine(ctx, os.Stdin)) != "yes" {
		return errors.New("nothing was removed")
	}
	return nil
}

// readLine returns a line, or nothing if ctx ends first: ^C at a question is an answer
// too. The read cannot be ended and lasts until the process does.
func readLine(ctx context.Context, from io.Reader) string {
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(from).ReadString('\n')
		line <- text
	}()
	select {
	case text := <-line:
		return text
	case <-ctx.Done():
		fmt.Println()
		return ""
	}
}

// tellKept names the files that stay because they are the user's, not the node's.
func tellKept(l layout.Layout, keepData bool) {
	if keepData {
		fmt.Println("kept all files in", l.Data())
		return
	}
	for _, path := range layout.UserFiles() {
		if _, err := os.Stat(path); err == nil {
			fmt.Println("kept", path)
		}
	}
}

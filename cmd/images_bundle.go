package cmd

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"brink/internal/layout"
	"brink/runtime/containerd"
	"brink/runtime/images"
)

func bundleFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write; what is there is replaced when the new one is whole"},
		&cli.StringSliceFlag{Name: "from", Value: cli.NewStringSlice(), Usage: "earlier bundle, a `FILE` that the nodes have imported: what it has is left out; may be given several times"},
	}, more...)
}

func bundleCommand() *cli.Command {
	return &cli.Command{
		Name:      "bundle",
		Usage:     "fetch images from registries into a file for nodes without a network",
		ArgsUsage: "[IMAGE...]",
		Description: "Runs on any machine with a network, as any user, and needs no node. Run again after it was cut short, it\n" +
			"goes on where it stopped: what was fetched lies in FILE.part until FILE is written.\n" +
			"Lay the file into DATA-DIR/agent/images of a node, or give it to brink images import.",
		Flags: bundleFlags(
			&cli.StringSliceFlag{Name: "filename", Aliases: []string{"f"}, Value: cli.NewStringSlice(), Usage: "`PATH` of manifests of which all images are taken: a file, a directory with all below it, or -"},
			&cli.StringSliceFlag{Name: "platform", Value: cli.NewStringSlice(), Usage: "`PLATFORM` of the nodes, such as linux/arm64 or linux/arm/v7; several for nodes of several kinds (default: that of this machine)"},
			&cli.StringFlag{Name: "private-registry", Value: layout.RegistriesFile, Usage: "`FILE` with mirrors and credentials of image registries, in k3s's format"},
		),
		OnUsageError: usageError,
		Action:       bundleImages,
	}
}

func exportCommand() *cli.Command {
	return &cli.Command{
		Name:         "export",
		Usage:        "write images of this node into a file for other nodes",
		ArgsUsage:    "IMAGE...",
		Flags:        pathFlags(bundleFlags()...),
		OnUsageError: usageError,
		Action:       exportImages,
	}
}

func bundleImages(c *cli.Context) error {
	manifests := c.StringSlice("filename")
	if c.String("output") == "" || c.NArg() == 0 && len(manifests) == 0 {
		return fmt.Errorf("brink images bundle: give the file to write by -o, and images or manifests (-f)")
	}
	names, err := images.ImagesOf(manifests, os.Stdin)
	if err != nil {
		return err
	}
	names = append(names, c.Args().Slice()...)
	if len(names) == 0 {
		return fmt.Errorf("brink images bundle: the manifests name no image")
	}
	file := c.String("private-registry")
	if _, err := os.Stat(file); err != nil && c.IsSet("private-registry") {
		return fmt.Errorf("--private-registry=%s: %w", file, err)
	}
	registries, err := images.ReadRegistries(file)
	if err != nil {
		return err
	}
	containerd.QuietLogs()
	done, err := images.Bundle{
		Out: c.String("output"), Images: names, Platforms: c.StringSlice("platform"), From: c.StringSlice("from"),
		Registries: registries, Report: progressOn(os.Stderr),
	}.Write(c.Context)
	if err != nil {
		return err
	}
	return printBundled(c.String("output"), done)
}

func exportImages(c *cli.Context) error {
	if c.String("output") == "" || c.NArg() == 0 {
		return fmt.Errorf("brink images export: give the file to write by -o, and images")
	}
	store, err := nodeImages(c)
	if err != nil {
		return err
	}
	out := c.String("output")
	done, err := store.Export(c.Context, out, c.Args().Slice(), c.StringSlice("from"), progressOn(os.Stderr))
	if err != nil {
		return err
	}
	return printBundled(out, done)
}

func printBundled(out string, b images.Bundled) error {
	for _, i := range b.Images {
		fmt.Println(i.Name, i.Digest)
	}
	shared := ""
	if b.Shared > 0 {
		shared = fmt.Sprintf(", without %.1f MiB of earlier bundles", float64(b.Shared)/(1<<20))
	}
	fmt.Fprintf(os.Stderr, "%s has %d images in %.1f MiB%s\n", out, len(b.Images), float64(b.Size)/(1<<20), shared)
	return nil
}

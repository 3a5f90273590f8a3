// Command size writes into docs/size.md what each part of a brink binary weighs.
//
//	size BINARY        prints it
//	size -update BINARY
//
// All of it is read from the binary: the sections of the file, and in the table of
// functions, which a stripped binary has too, the code of each package. A module is the
// longest path in the build information that a package's path begins with.
package main

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"debug/gosym"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brink/scripts/size/gauge"
)

const (
	page  = "docs/size.md"
	begin = "<!-- size: begin, written by scripts/size -update -->\n"
	end   = "<!-- size: end -->\n"
	// least is what a module must weigh to have a line of its own.
	least = 250_000
)

func main() {
	update := flag.Bool("update", false, "write docs/size.md anew")
	flag.Parse()
	if err := run(*update, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "size:", err)
		os.Exit(1)
	}
}

func run(update bool, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: size [-update] BINARY")
	}
	text, err := report(args[0])
	if err != nil || !update {
		fmt.Print(text)
		return err
	}
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, isEnded := strings.Cut(rest, end)
	if !ok || !isEnded {
		return fmt.Errorf("%s lacks its marks %s and %s", page, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+text+"\n"+end+after), 0o644)
}

func report(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := writeParts(&out, f, path); err != nil {
		return "", err
	}
	code, err := codeByModule(f, info)
	if err != nil {
		return "", err
	}
	writeModules(&out, code)
	return out.String(), nil
}

// kinds are what sections hold, in the order of the page.
var kinds = []struct {
	name     string
	sections []string
}{
	{"code", []string{".text"}},
	{"tables for stack traces and the garbage collector", []string{".gopclntab"}},
	{"types, texts and constants", []string{".rodata", ".typelink", ".itablink"}},
	{"data that is set at the start, the payload and the licences", []string{".data", ".noptrdata"}},
}

// writeParts writes what the sections weigh, as they are and packed each by itself.
func writeParts(out io.Writer, f *elf.File, path string) error {
	whole, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	packedWhole, err := gauge.OfReader(bytes.NewReader(whole))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "| part of the %s binary | MB | packed, MB |\n|---|---|---|\n", f.Machine)
	rest, packedRest := len(whole), packedWhole
	for _, k := range kinds {
		var content []byte
		for _, name := range k.sections {
			if s := f.Section(name); s != nil {
				data, err := s.Data()
				if err != nil {
					return err
				}
				content = append(content, data...)
			}
		}
		packed, err := gauge.OfReader(bytes.NewReader(content))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "| %s | %.1f | %.1f |\n", k.name, mb(len(content)), mb(packed))
		rest, packedRest = rest-len(content), packedRest-packed
	}
	fmt.Fprintf(out, "| all else | %.1f | %.1f |\n| **whole** | **%.1f** | **%.1f** |\n\n", mb(rest), mb(packedRest), mb(len(whole)), mb(packedWhole))
	return writeCarried(out, f)
}

// writeCarried writes what files within the binary weigh; they are packed already.
func writeCarried(out io.Writer, f *elf.File) error {
	arch := map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm"}[f.Machine]
	for _, c := range []struct{ what, path string }{
		{"the payload, programs that brink carries", "runtime/payload/payload_" + arch + ".tar.zst"},
		{"the licences", "internal/licenses/generated/licenses.json.gz"},
	} {
		info, err := os.Stat(filepath.FromSlash(c.path))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "Of this %.1f MB are %s.\n", mb(info.Size()), c.what)
	}
	return nil
}

func mb[N int | int64 | uint64](n N) float64 { return float64(n) / 1e6 }

// codeByModule returns the bytes of code of each module.
func codeByModule(f *elf.File, info *buildinfo.BuildInfo) (map[string]uint64, error) {
	table, err := f.Section(".gopclntab").Data()
	if err != nil {
		return nil, err
	}
	text := f.Section(".text")
	functions, err := gosym.NewTable(nil, gosym.NewLineTable(table, text.Addr))
	if err != nil {
		return nil, err
	}
	if len(functions.Funcs) < 1000 {
		return nil, fmt.Errorf("only %d functions found: this Go has another table", len(functions.Funcs))
	}
	code, rest := map[string]uint64{}, text.Size
	for _, fn := range functions.Funcs {
		code[moduleOf(packageOf(fn.Name), info)] += fn.End - fn.Entry
		rest -= fn.End - fn.Entry
	}
	code["C: SQLite, libc"] = rest
	return code, nil
}

// packageOf returns the path of the package that a function is of. Generic functions have
// types, with paths of their own, in brackets.
func packageOf(function string) string {
	name, _, _ := strings.Cut(function, "[")
	slash := strings.LastIndex(name, "/")
	dot := strings.Index(name[slash+1:], ".")
	if dot < 0 {
		return name
	}
	return strings.ReplaceAll(name[:slash+1+dot], "%2e", ".")
}

func moduleOf(path string, info *buildinfo.BuildInfo) string {
	best := ""
	for _, dep := range info.Deps {
		if (path == dep.Path || strings.HasPrefix(path, dep.Path+"/")) && len(dep.Path) > len(best) {
			best = dep.Path
		}
	}
	first, _, _ := strings.Cut(path, "/")
	switch {
	case best != "":
		return best
	case first == info.Main.Path || first == "main":
		return info.Main.Path
	}
	return "Go's standard library"
}

func writeModules(out io.Writer, code map[string]uint64) {
	fmt.Fprint(out, "\n| code of | MB |\n|---|---|\n")
	names := slices.SortedFunc(maps.Keys(code), func(a, b string) int { return int(code[b]) - int(code[a]) })
	var small uint64
	count := 0
	for _, name := range names {
		if code[name] < least {
			small, count = small+code[name], count+1
			continue
		}
		fmt.Fprintf(out, "| %s | %.1f |\n", name, mb(code[name]))
	}
	fmt.Fprintf(out, "| %d smaller ones | %.1f |\n", count, mb(small))
}

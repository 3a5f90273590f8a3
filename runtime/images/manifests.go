package images

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ImagesOf returns the names of the images that the Kubernetes manifests at paths name, in
// YAML or JSON, several documents and lists in a file too. A path is a file, a directory
// that is read with all below it, or - for in. Names are whole, sorted, and each is there
// once.
//
// It knows no kinds: whatever has a list of containers with images in it has pods, also an
// operator's own resource.
func ImagesOf(paths []string, in io.Reader) ([]string, error) {
	var out []string
	for _, path := range paths {
		files, err := manifestFiles(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			found, err := imagesInFile(file, in)
			if err != nil {
				return nil, err
			}
			out = append(out, found...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// manifestFiles returns the files at path. In a directory those count whose name says that
// they may be manifests.
func manifestFiles(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading manifests: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var out []string
	err = filepath.WalkDir(path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			out = append(out, path)
		}
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("no file in %s ends in .yaml, .yml or .json", path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading manifests: %w", err)
	}
	return out, nil
}

func imagesInFile(path string, in io.Reader) ([]string, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading manifests: %w", err)
		}
		defer f.Close()
		in = f
	}
	p := podReader{file: path, seen: map[*yaml.Node]bool{}}
	for documents := yaml.NewDecoder(in); ; {
		var document yaml.Node
		err := documents.Decode(&document)
		if errors.Is(err, io.EOF) {
			return p.images, p.err
		}
		if err != nil {
			return nil, fmt.Errorf("reading manifests: %s: %w", path, err)
		}
		p.read(&document)
	}
}

// podReader collects the images of one file, and its first mistake.
type podReader struct {
	file   string
	images []string
	err    error
	seen   map[*yaml.Node]bool // an anchor may be used many times
}

// containerLists are the fields of a pod that have images.
var containerLists = []string{"containers", "initContainers", "ephemeralContainers"}

func (p *podReader) read(n *yaml.Node) {
	if n == nil || p.seen[n] {
		return
	}
	p.seen[n] = true
	p.read(n.Alias)
	for i, child := range n.Content {
		if n.Kind != yaml.MappingNode {
			p.read(child)
			continue
		}
		if i%2 == 0 {
			continue
		}
		switch key := n.Content[i-1].Value; {
		case slices.Contains(containerLists, key):
			p.each(child, "image")
		case key == "volumes":
			p.each(child, "image", "reference")
		}
		p.read(child)
	}
}

// each takes an image of each item of a list: the text at the end of the path of keys.
func (p *podReader) each(list *yaml.Node, path ...string) {
	if list = target(list); list.Kind != yaml.SequenceNode {
		return
	}
	for _, item := range list.Content {
		for _, key := range path {
			item = valueOf(target(item), key)
		}
		if item != nil && item.Kind == yaml.ScalarNode && item.Value != "" {
			p.take(item)
		}
	}
}

func (p *podReader) take(n *yaml.Node) {
	name := WholeName(n.Value)
	if _, err := podName(name); err != nil {
		p.err = errors.Join(p.err, fmt.Errorf("%s:%d: %q is no name of an image; a template must be rendered first", p.file, n.Line, n.Value))
		return
	}
	p.images = append(p.images, name)
}

// target returns what an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// valueOf returns the value of a key in a mapping, or nil.
func valueOf(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return target(n.Content[i+1])
		}
	}
	return nil
}

// wholeNames returns the names that pods know images by, sorted, each once.
func wholeNames(given []string) ([]string, error) {
	var out []string
	for _, g := range given {
		name := WholeName(strings.TrimSpace(g))
		if _, err := podName(name); err != nil {
			return nil, fmt.Errorf("%q is no name of an image", g)
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

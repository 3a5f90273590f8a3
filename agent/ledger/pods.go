package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// Pods is the list of this node's pods, by uid. The directories of the kubelet and of the
// logs may be shared with another kubelet, at the same time or one after the other, and a
// pod's directory does not show whose it is.
//
// A pod is appended to the list before the kubelet learns of it. The append is not synced:
// a power cut loses pods of the last seconds, whose directories uninstall then leaves and
// names. CronJobs make pods for ever, so after rewriteAfter of them the list is written
// anew without those of which nothing is left.
type Pods struct {
	l layout.Layout

	mu    sync.Mutex
	open  bool     // the list was read
	known []string // oldest first
	in    map[string]bool
	added int // since the whole list was written
	// behind is whether the file lacks something or ends in half a line.
	behind bool
}

const (
	rewriteAfter = 1000
	// keepRecent is how many of the last pods stay in the list even if nothing of them
	// exists: the kubelet may not have started on them.
	keepRecent = 500
)

// NewPods returns a list that has not been opened.
func NewPods(l layout.Layout) *Pods { return &Pods{l: l, in: map[string]bool{}, behind: true} }

// Open reads the list and drops pods of which nothing is left, which only the caller that
// is about to run the kubelet may do. For a node of an older brink, without a list, see
// podsOfOlder. After an error, which means that the list cannot be written, p works and
// retries at each pod.
func (p *Pods) Open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.openLocked()
}

func (p *Pods) openLocked() error {
	if p.open {
		return nil
	}
	p.open = true
	for _, uid := range readPods(p.l) {
		if !p.in[uid] {
			p.known, p.in[uid] = append(p.known, uid), true
		}
	}
	if err := p.rewrite(0); err != nil {
		return fmt.Errorf("the list of this node's pods: %w", err)
	}
	return nil
}

// Add adds a pod to the list. It returns an error once, until adding works again.
func (p *Pods) Add(uid string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.openLocked() // which Open has done; its error comes again below
	if p.in[uid] || !isUID(uid) {
		return nil
	}
	wasBehind := p.behind
	p.known, p.in[uid] = append(p.known, uid), true
	p.added++
	var err error
	if !p.behind {
		err = p.append(uid)
	}
	if p.behind || p.added >= rewriteAfter {
		if rewritten := p.rewrite(keepRecent); rewritten == nil {
			err = nil
		} else if p.behind {
			err = errors.Join(err, rewritten)
		}
	}
	if err == nil || wasBehind {
		return nil
	}
	return fmt.Errorf("writing down a pod of this node: %w", err)
}

func (p *Pods) append(uid string) error {
	f, err := os.OpenFile(p.l.Pods(), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(uid + "\n")
		err = errors.Join(err, f.Close())
	}
	p.behind = err != nil
	return err
}

// rewrite writes the whole list, without pods of which nothing is left but with the last
// recent ones. If that fails the list stays too long, which does no harm.
func (p *Pods) rewrite(recent int) error {
	left, unseen := podsLeft(p.l)
	var kept []string
	for i, uid := range p.known {
		if unseen != nil || left[uid] || i >= len(p.known)-recent {
			kept = append(kept, uid)
		} else {
			delete(p.in, uid)
		}
	}
	p.known, p.added = kept, 0
	var text strings.Builder
	for _, uid := range kept {
		text.WriteString(uid + "\n")
	}
	err := atomicfile.Keep(p.l.Pods(), []byte(text.String()), 0o600)
	p.behind = p.behind && err != nil
	return err
}

// ReadPods returns the uids of this node's pods, see Pods.Open.
func ReadPods(l layout.Layout) map[string]bool {
	known := map[string]bool{}
	for _, uid := range readPods(l) {
		known[uid] = true
	}
	return known
}

func readPods(l layout.Layout) []string {
	text, err := atomicfile.Read(l.Pods())
	if errors.Is(err, fs.ErrNotExist) {
		return podsOfOlder(l)
	}
	var known []string
	for line := range strings.Lines(string(text)) {
		// A line without its end was cut off.
		if uid, ok := strings.CutSuffix(line, "\n"); ok && isUID(uid) {
			known = append(known, uid)
		}
	}
	return known
}

// podsOfOlder returns the pods that have a directory and that this node's containerd has
// known. An older brink kept no list, and another kubelet may have put pods into a
// directory that was once brink's alone.
func podsOfOlder(l layout.Layout) []string {
	entries, err := Read(l.Made())
	if err != nil || !Owns(l, entries) {
		return nil
	}
	pods, _ := os.ReadDir(l.KubeletPods())
	var asked []string
	for _, pod := range pods {
		asked = append(asked, pod.Name())
	}
	// It has the uid of a pod in the labels of its sandbox, which is made before any of
	// the pod's containers.
	known, err := namedIn(l.ContainerdDatabase(), asked)
	if err != nil {
		return nil
	}
	return known
}

// namedIn returns the words that a file contains, in the given order. It searches the
// database as bytes: only this node writes a uid of this length into it.
func namedIn(path string, words []string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const longest = 128
	found := map[string]bool{}
	buf, kept := make([]byte, 1<<20), 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		part := buf[:kept+n]
		for _, word := range words {
			if isUID(word) && len(word) >= 32 && bytes.Contains(part, []byte(word)) {
				found[word] = true
			}
		}
		if err != nil {
			break
		}
		kept = copy(buf, part[len(part)-longest:]) // a word may continue in the next part
	}
	return slices.DeleteFunc(slices.Clone(words), func(word string) bool { return !found[word] }), nil
}

// ForeignPods returns the pods of others in a kubelet's directory outside of the data
// directory, for a data directory in which no node has run. The node's kubelet would
// remove them, as it removes pods that are gone from its cluster.
func ForeignPods(l layout.Layout) []string {
	if layout.IsBelow(l.Kubelet(), l.Data()) {
		return nil
	}
	return foreignPodsIn(l.Kubelet(), l.Made())
}

func foreignPodsIn(kubelet, made string) []string {
	if _, err := os.Lstat(made); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	pods, _ := os.ReadDir(filepath.Join(kubelet, "pods"))
	var out []string
	for _, pod := range pods {
		out = append(out, pod.Name())
	}
	return out
}

// Owns reports whether the kubelet's directory is the node's, by its ledger.
func Owns(l layout.Layout, entries []Entry) bool {
	if layout.IsBelow(l.Kubelet(), l.Data()) {
		return true
	}
	for _, e := range entries {
		if e == (Entry{Dir, l.Kubelet()}) {
			return true
		}
	}
	return false
}

// IsShared reports whether another distribution's kubelet has used a directory: it has a
// configuration or certificates, which brink's keeps elsewhere.
func IsShared(kubelet string) bool {
	for _, name := range []string{"config.yaml", "pki", "kubeadm-flags.env", "kubeconfig"} {
		if _, err := os.Lstat(filepath.Join(kubelet, name)); err == nil {
			return true
		}
	}
	return false
}

// podsLeft returns the pods, anyone's, of which there are directories or logs.
func podsLeft(l layout.Layout) (map[string]bool, error) {
	left := map[string]bool{}
	pods, err := os.ReadDir(l.KubeletPods())
	for _, pod := range pods {
		left[pod.Name()] = true
	}
	logs, logsErr := os.ReadDir(l.PodLogs())
	for _, dir := range logs {
		left[PodOfLogs(dir.Name())] = true
	}
	for _, err := range []error{err, logsErr} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return left, nil
}

// PodOfLogs returns the uid in the name of a pod's log directory, namespace_name_uid.
func PodOfLogs(name string) string { return name[strings.LastIndexByte(name, '_')+1:] }

// isUID reports whether text can be a pod's uid. Those of static pods are not UUIDs.
func isUID(text string) bool {
	return text != "" && len(text) < 128 && strings.Trim(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}

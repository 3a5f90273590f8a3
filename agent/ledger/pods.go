package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// Pods is the list of this node's pods, by uid. The kubelet's directory and that of
// the logs may be shared with another kubelet, at the same time or one after the
// other, and a pod's directory does not say whose it is.
//
// A pod comes into the list before the kubelet hears of it, by one append. That is
// not synced: what a power cut takes from it are pods of the last seconds, whose
// directories uninstall then leaves and names.
type Pods struct {
	mu    sync.Mutex
	file  *os.File
	known map[string]bool
}

// OpenPods reads the list. Pods of which nothing is left are dropped from it, which
// only who is about to run the kubelet may do. A node without a list, of an older
// brink, has the pods that lie in a directory of its own.
func OpenPods(l layout.Layout) (*Pods, error) {
	known := ReadPods(l)
	left := podsLeft(l)
	for uid := range known {
		if !left[uid] {
			delete(known, uid)
		}
	}
	var text strings.Builder
	for uid := range known {
		text.WriteString(uid + "\n")
	}
	if err := atomicfile.Keep(l.Pods(), []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("the list of this node's pods: %w", err)
	}
	f, err := os.OpenFile(l.Pods(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the list of this node's pods: %w", err)
	}
	return &Pods{file: f, known: known}, nil
}

// Add puts a pod into the list.
func (p *Pods) Add(uid string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[uid] || !isUID(uid) {
		return nil
	}
	if _, err := p.file.WriteString(uid + "\n"); err != nil {
		return fmt.Errorf("writing down a pod of this node: %w", err)
	}
	p.known[uid] = true
	return nil
}

// Close ends writing.
func (p *Pods) Close() error { return p.file.Close() }

// ReadPods returns the uids of this node's pods, see OpenPods.
func ReadPods(l layout.Layout) map[string]bool {
	text, err := os.ReadFile(l.Pods())
	if errors.Is(err, fs.ErrNotExist) {
		return podsOfOlder(l)
	}
	known := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		// A line without its end was cut off.
		if uid, ok := strings.CutSuffix(line, "\n"); ok && isUID(uid) {
			known[uid] = true
		}
	}
	return known
}

// podsOfOlder are those in a directory that was the node's alone.
func podsOfOlder(l layout.Layout) map[string]bool {
	known := map[string]bool{}
	entries, err := Read(l.Made())
	if err != nil || !Owns(l, entries) || IsShared(l.Kubelet()) {
		return known
	}
	pods, _ := os.ReadDir(filepath.Join(l.Kubelet(), "pods"))
	for _, pod := range pods {
		known[pod.Name()] = true
	}
	return known
}

// Owns tells whether the kubelet's directory is the node's, by its ledger.
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

// IsShared tells whether another distribution's kubelet has lived in a directory:
// brink's keeps its configuration and certificates elsewhere.
func IsShared(kubelet string) bool {
	for _, name := range []string{"config.yaml", "pki", "kubeadm-flags.env", "kubeconfig"} {
		if _, err := os.Lstat(filepath.Join(kubelet, name)); err == nil {
			return true
		}
	}
	return false
}

// podsLeft are the pods of which there are directories or logs, anyone's.
func podsLeft(l layout.Layout) map[string]bool {
	left := map[string]bool{}
	pods, _ := os.ReadDir(filepath.Join(l.Kubelet(), "pods"))
	for _, pod := range pods {
		left[pod.Name()] = true
	}
	logs, _ := os.ReadDir(l.PodLogs())
	for _, dir := range logs {
		left[PodOfLogs(dir.Name())] = true
	}
	return left
}

// PodOfLogs is the uid in the name of a pod's log directory, namespace_name_uid.
func PodOfLogs(name string) string { return name[strings.LastIndexByte(name, '_')+1:] }

// isUID also knows those of static pods, which are no UUIDs.
func isUID(text string) bool {
	return text != "" && len(text) < 128 && strings.Trim(text, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_") == ""
}

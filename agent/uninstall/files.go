package uninstall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"brink/agent/ledger"
	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// own are the entries of a data directory. Others are not brink's.
var own = []string{"agent", "server", "data"}

// removeOutside removes what has to lie outside of brink's own directories.
func (u *run) removeOutside() {
	u.removePodLogs()
	u.removeCNIResults()
	u.removeKubeletDir()
	for _, path := range u.made(ledger.Kubeconfig) {
		u.removeKubeconfig(path)
	}
	u.removeAlone(u.Layout.NodePassword())
	u.removeAlone(u.Layout.RevisionCeiling())
	// Children were recorded after their parents.
	for _, dir := range slices.Backward(u.made(ledger.Dir)) {
		if err := os.Remove(dir); err == nil {
			u.Removed(dir)
		}
	}
}

// removePodLogs removes our pods' logs where every collector finds them, and
// the links that lead to them.
func (u *run) removePodLogs() {
	if dir := u.Layout.PodLogs(); !layout.IsBelow(dir, u.Layout.Data()) {
		uids, count := u.podUIDs(), 0
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if slices.Contains(uids, podOfLogs(e.Name())) {
				u.failed(u.removeTree(filepath.Join(dir, e.Name())))
				count++
			}
		}
		u.removed(count, "pod's logs in "+dir, "pods' logs in "+dir)
	}
	u.removed(u.removeLogLinks(), "link in "+ledger.ContainerLogsDir, "links in "+ledger.ContainerLogsDir)
}

// podOfLogs is the uid in the name of a pod's log directory, namespace_name_uid.
func podOfLogs(name string) string { return name[strings.LastIndexByte(name, '_')+1:] }

// removeLogLinks removes those that lead into the data directory, or nowhere
// since our logs have gone.
func (u *run) removeLogLinks() int {
	links, _ := filepath.Glob(filepath.Join(ledger.ContainerLogsDir, "*.log"))
	count := 0
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !layout.IsBelow(target, u.Layout.PodLogs()) {
			continue
		}
		if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) || layout.IsBelow(target, u.Layout.Data()) {
			u.failed(os.Remove(link))
			count++
		}
	}
	return count
}

// removeCNIResults removes the results that the CNI library keeps of our pods,
// at a place shared by all networks of the machine.
func (u *run) removeCNIResults() {
	paths, _ := filepath.Glob(filepath.Join(ledger.CNIResults, "*"))
	count := 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err == nil && usesState(data, u.Layout.CNIState()) {
			u.failed(os.Remove(path))
			count++
		}
	}
	u.removed(count, "result in "+ledger.CNIResults, "results in "+ledger.CNIResults)
}

// usesState tells whether a cached result is of a network whose leases are in
// dir. The format is that of github.com/containernetworking/cni/libcni, which
// keeps the configuration in it.
func usesState(result []byte, dir string) bool {
	var cached struct{ Config []byte }
	if json.Unmarshal(result, &cached) != nil {
		return false
	}
	type plugin struct{ IPAM struct{ DataDir string } }
	var conf struct {
		Plugins []plugin
		plugin
	}
	if json.Unmarshal(cached.Config, &conf) != nil {
		return false
	}
	isOurs := func(p plugin) bool { return p.IPAM.DataDir == dir }
	return slices.ContainsFunc(append(conf.Plugins, conf.plugin), isOurs)
}

// ownsKubeletDir tells whether all that is in the kubelet's directory comes from
// our kubelet: it was ours from the start, and no other kubelet lives in it now.
func (u *run) ownsKubeletDir() bool {
	dir := u.Layout.Kubelet()
	if layout.IsBelow(dir, u.Layout.Data()) {
		return true
	}
	return u.hasMade(dir) && listenerOf(filepath.Join(ledger.DevicePlugins, "kubelet.sock")) == 0
}

func (u *run) podUIDs() []string {
	var uids []string
	for _, b := range u.bundles {
		if b.pod != "" {
			uids = append(uids, b.pod)
		}
	}
	if u.ownsKubeletDir() {
		entries, _ := os.ReadDir(filepath.Join(u.Layout.Kubelet(), "pods"))
		for _, e := range entries {
			uids = append(uids, e.Name())
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

func (u *run) podDirs() []string {
	var out []string
	for _, uid := range u.podUIDs() {
		out = append(out, filepath.Join(u.Layout.Kubelet(), "pods", uid))
	}
	return out
}

// removeKubeletDir removes the kubelet's directory where it is not in the data
// directory, and what every kubelet puts at a fixed place.
func (u *run) removeKubeletDir() {
	dir := u.Layout.Kubelet()
	switch {
	case layout.IsBelow(dir, u.Layout.Data()):
	case u.ownsKubeletDir():
		u.remove(dir)
	default:
		for _, pod := range u.podDirs() {
			u.remove(pod)
		}
		if _, err := os.Stat(dir); err == nil {
			u.Kept(dir + ", which was there before brink")
		}
	}
	socket := filepath.Join(ledger.DevicePlugins, "kubelet.sock")
	if listenerOf(socket) != 0 {
		return // of a kubelet that lives
	}
	_ = os.Remove(socket)
	if u.hasMade(ledger.DevicePlugins) {
		_ = os.Remove(filepath.Join(ledger.DevicePlugins, "kubelet_internal_checkpoint"))
	}
}

// removeKubeconfig removes a kubeconfig of this cluster and no other. Without
// the cluster's CA to compare with it stays.
func (u *run) removeKubeconfig(path string) {
	config, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	ca, caErr := os.ReadFile(filepath.Join(u.Layout.TLS(), "server-ca.crt"))
	if err != nil || caErr != nil || !isOnlyFor(config, ca) {
		u.Kept(path + ", which cannot be told to be this node's alone")
		return
	}
	if err := os.Remove(path); err != nil {
		u.failed(fmt.Errorf("removing the kubeconfig: %w", err))
		return
	}
	u.Removed(path)
}

// removeAlone removes a file where it is not in the data directory. The path is
// brink's alone.
func (u *run) removeAlone(path string) {
	if layout.IsBelow(path, u.Layout.Data()) {
		return
	}
	err := atomicfile.Clean(filepath.Dir(path), filepath.Base(path))
	if !errors.Is(err, fs.ErrNotExist) {
		u.failed(err)
	}
	u.remove(path)
}

func isOnlyFor(config *clientcmdapi.Config, ca []byte) bool {
	for _, cluster := range config.Clusters {
		if !bytes.Equal(cluster.CertificateAuthorityData, ca) {
			return false
		}
	}
	return len(config.Clusters) > 0
}

// removeOwn removes the run directory and, unless it is to be kept, what is
// brink's in the data directory. The record of what was made and the lock go
// last, and only when nothing stayed.
func (u *run) removeOwn() {
	u.remove(u.Layout.Run())
	if u.KeepData {
		return
	}
	data := u.Layout.Data()
	if _, err := os.Lstat(data); err != nil {
		return
	}
	for _, name := range own {
		u.failed(u.removeTree(filepath.Join(data, name)))
	}
	if len(u.errs) > 0 {
		return
	}
	u.failed(os.RemoveAll(u.Layout.Made()))
	u.failed(os.RemoveAll(u.Layout.Lock()))
	u.removeDataDir(data)
}

// removeDataDir leaves a directory alone that is a mount point, a link, or holds
// something of the user's.
func (u *run) removeDataDir(data string) {
	entries, _ := os.ReadDir(data)
	if len(entries) > 0 {
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		u.Kept(fmt.Sprintf("%s with what is not brink's: %s", data, strings.Join(names, ", ")))
		return
	}
	if info, err := os.Lstat(data); err == nil && info.Mode()&fs.ModeSymlink != 0 || slices.Contains(readMounts(), data) {
		u.Removed("everything in " + data)
		return
	}
	if err := os.Remove(data); err != nil {
		u.failed(fmt.Errorf("removing the data directory: %w", err))
		return
	}
	u.Removed(data)
}

func (u *run) remove(path string) {
	if _, err := os.Lstat(path); err != nil {
		return
	}
	if err := u.removeTree(path); err != nil {
		u.failed(err)
		return
	}
	u.Removed(path)
}

// removeTree removes a directory, unless something is mounted in it: that would
// be emptied too.
func (u *run) removeTree(path string) error {
	real := resolve(path)
	for _, point := range readMounts() {
		if layout.IsBelow(point, real) {
			return fmt.Errorf("%s was not removed because something is mounted on %s: unmount it and try again", path, point)
		}
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("removing files: %w", err)
	}
	return nil
}

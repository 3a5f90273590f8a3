package uninstall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"brink/agent/ledger"
	"brink/agent/networkmanager"
	"brink/internal/atomicfile"
	"brink/internal/datadir"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/removetree"
	"brink/internal/wire/nodekey"
)

// removeOutside removes what brink had to put outside of its own directories.
func (u *run) removeOutside() {
	u.removePodLogs()
	u.removeCNIResults()
	u.removeKubeletDir()
	for _, path := range u.made(ledger.Kubeconfig) {
		u.removeKubeconfig(path)
	}
	u.removeFiles()
	u.removeTexts()
	// Children were recorded after their parents.
	for _, dir := range slices.Backward(u.made(ledger.Dir)) {
		if !u.removeEmpty(dir) && !layout.IsBelow(dir, u.Layout.Kubelet()) {
			u.reportStrangers(dir)
		}
	}
}

// reportStrangers names what others have put into a directory that brink made.
// Directories in it that brink made too are reported on their own.
func (u *run) reportStrangers(dir string) {
	entries, _ := os.ReadDir(dir)
	var kept []removetree.Kept
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		isReported := u.hasMade(path) || slices.Contains(layout.UserFiles(), path) // the command tells of these
		if !isReported {
			kept = append(kept, removetree.Kept{Path: path, Why: removetree.NotListed})
		}
	}
	u.reportKept(kept)
}

// rmdir removes an empty directory. os.Remove would remove a link in its place too.
func rmdir(dir string) error { return syscall.Rmdir(dir) }

// removePodLogs removes our pods' logs where every collector finds them, and
// the links that lead to them.
func (u *run) removePodLogs() {
	u.removed(u.removeLogLinks(), "link in "+ledger.ContainerLogsDir, "links in "+ledger.ContainerLogsDir)
	dir := u.Layout.PodLogs()
	if layout.IsBelow(dir, u.Layout.Data()) {
		return
	}
	count := 0
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if u.pods[ledger.PodOfLogs(e.Name())] && e.IsDir() {
			u.failed(removetree.All(filepath.Join(dir, e.Name())))
			count++
		}
	}
	u.removed(count, "pod's logs in "+dir, "pods' logs in "+dir)
}

// removeLogLinks removes the links that lead to logs of our pods, and counts them.
func (u *run) removeLogLinks() int {
	links, _ := filepath.Glob(filepath.Join(ledger.ContainerLogsDir, "*.log"))
	count := 0
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil || !u.isPodLog(target) {
			continue
		}
		u.failed(os.Remove(link))
		count++
	}
	return count
}

// isPodLog reports whether a path, which need not exist, is NAMESPACE_NAME_UID/CONTAINER/0.log
// of a pod of ours.
func (u *run) isPodLog(path string) bool {
	for _, dir := range []string{u.Layout.PodLogs(), datadir.Resolve(u.Layout.PodLogs())} {
		if rel, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rel) {
			pod, _, _ := bytes.Cut([]byte(rel), []byte("/"))
			return u.pods[ledger.PodOfLogs(string(pod))]
		}
	}
	return false
}

// removeCNIResults removes the results that the CNI library keeps of our pods, in a
// directory shared by all networks of the machine.
func (u *run) removeCNIResults() {
	paths, _ := filepath.Glob(filepath.Join(ledger.CNIResults, "*"))
	count := 0
	for _, path := range paths {
		data, err := atomicfile.Read(path)
		if err == nil && usesState(data, u.Layout.CNIState()) {
			u.failed(os.Remove(path))
			count++
		}
	}
	u.removed(count, "result in "+ledger.CNIResults, "results in "+ledger.CNIResults)
}

// usesState reports whether a cached result is of a network whose leases are in
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
	isOurs := func(p plugin) bool { return datadir.Resolve(p.IPAM.DataDir) == datadir.Resolve(dir) }
	return slices.ContainsFunc(append(conf.Plugins, conf.plugin), isOurs)
}

// removeKubeletDir removes what is ours in the kubelet's directory where that is outside
// of the data directory, and what every kubelet puts at a fixed path. The latter comes
// first, so that nothing is reported as kept that is then removed.
func (u *run) removeKubeletDir() {
	u.removeDevicePlugins()
	if dir := u.Layout.Kubelet(); !layout.IsBelow(dir, u.Layout.Data()) {
		u.sift(datadir.Resolve(dir), u.inKubelet)
		u.reportKubelet(dir)
	}
}

func (u *run) removeDevicePlugins() {
	socket := ledger.DevicePluginSocket
	if kubeletLives() {
		return
	}
	if info, err := os.Lstat(socket); err == nil && info.Mode()&fs.ModeSocket != 0 {
		_ = os.Remove(socket)
	}
	if u.hasMade(ledger.DevicePlugins) && !u.sharesKubelet {
		_ = os.Remove(ledger.DeviceCheckpoint)
	}
}

// reportKubelet reports why the directory itself stays.
func (u *run) reportKubelet(dir string) {
	switch info, err := os.Lstat(dir); {
	case err != nil:
	case info.Mode()&fs.ModeSymlink != 0:
		u.Kept(fmt.Sprintf("%s, a link to %s", dir, datadir.Resolve(dir)))
	case !u.ownsKubelet:
		u.Kept(dir + ", which was there before brink")
	case u.sharesKubelet:
		u.Kept(dir + ", which another kubelet uses too")
	}
}

// removeKubeconfig removes a kubeconfig that is for this cluster and no other. Without
// the cluster's CA to compare with, it stays.
func (u *run) removeKubeconfig(path string) {
	config, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	ca, caErr := os.ReadFile(u.Layout.Cert(layout.ServerCA))
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

func isOnlyFor(config *clientcmdapi.Config, ca []byte) bool {
	for _, cluster := range config.Clusters {
		if !bytes.Equal(cluster.CertificateAuthorityData, ca) {
			return false
		}
	}
	return len(config.Clusters) > 0
}

// removeFiles removes the files that were recorded one by one. An older brink did not
// record the node password, which is recognized by its content.
func (u *run) removeFiles() {
	files := u.made(ledger.File)
	if path := u.Layout.NodePassword(); !layout.IsBelow(path, u.Layout.Data()) && !slices.Contains(files, path) {
		if _, err := nodekey.Read(path); err == nil {
			files = append(files, path)
		}
	}
	for _, path := range files {
		u.removeFile(path)
	}
}

// removeTexts removes files that brink put into directories of the machine's. One that
// somebody has changed since is theirs, and one that another brink relies on stays.
func (u *run) removeTexts() {
	files := ledger.TextFiles(u.entries)
	if others := otherBrinks(u.Layout); len(others) > 0 && len(files) > 0 {
		u.Kept(fmt.Sprintf("%s: another brink, pid %d, uses it", files[0].Path, others[0]))
		return
	}
	removed := map[string]bool{} // by path: a file may have been written with several contents
	for _, f := range files {
		done, err := f.Remove()
		u.failed(err)
		if done {
			u.Removed(f.Path)
		}
		if done && f.Path == host.NetworkManagerFile {
			u.failed(networkmanager.Reload())
		}
		removed[f.Path] = removed[f.Path] || done
	}
	for _, path := range slices.Sorted(maps.Keys(removed)) {
		if _, err := os.Lstat(path); err == nil && !removed[path] {
			u.Kept(path + ", which somebody has changed since")
		}
	}
}

func (u *run) removeFile(path string) {
	err := atomicfile.Clean(filepath.Dir(path), filepath.Base(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		u.failed(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return
	}
	if !info.Mode().IsRegular() {
		u.Kept(path + ", which is no file of brink's any more")
		return
	}
	if err := os.Remove(path); err != nil {
		u.failed(fmt.Errorf("removing files: %w", err))
		return
	}
	u.Removed(path)
}

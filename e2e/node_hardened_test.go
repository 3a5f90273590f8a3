package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/e2e/machine"
	"brink/server/pki"
)

// TestHardened looks at what pods and the machine's users can reach of a node whose
// owner has asked for nothing.
func TestHardened(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(sleeper("plain", ""))
	ns.apply(sleeper("mapped", "    volumeMounts: [{name: scratch, mountPath: /scratch}]\n"+
		"  hostUsers: false\n  volumes: [{name: scratch, emptyDir: {}}]\n"))
	ns.readyPod("plain")
	ns.mustContain(ns.exec("plain", "cat", "/proc/self/status"), "Seccomp:\t2")

	ns.readyPod("mapped")
	if ids := strings.Fields(ns.exec("mapped", "cat", "/proc/self/uid_map")); len(ids) != 3 || ids[1] == "0" {
		t.Errorf("root of a pod with a user namespace is %q on the machine", ids)
	}
	ns.exec("mapped", "touch", "/scratch/file")
	ns.runDirIsClosed()
	ns.keepsRoom(ns.pod("plain"))
	for _, port := range []string{"6443", "10250"} {
		ns.takesNoCBC(port)
	}
}

// keepsRoom: pods meet a limit before brink does.
func (ns *namespace) keepsRoom(pod *corev1.Pod) {
	ns.Helper()
	node, err := ns.node.Client.CoreV1().Nodes().Get(ns.Context(), ns.node.ID, metav1.GetOptions{})
	if err != nil {
		ns.Fatal(err)
	}
	const atLeast = 250 << 20 // brink's own, and what the kubelet evicts for
	has, gives := node.Status.Capacity.Memory().Value(), node.Status.Allocatable.Memory().Value()
	if has-gives < atLeast || gives < has/2 {
		ns.Errorf("of %d bytes of memory pods may have %d", has, gives)
	}
	for what, s := range map[string]machine.Setting{"kubepods": machine.MemoryLimit, string(pod.UID): {Controller: "pids", V1: "pids.max", V2: "pids.max"}} {
		value, err := ns.node.CgroupValue(s, what)
		limit, numberErr := strconv.ParseInt(value, 10, 64)
		if err != nil || numberErr != nil || limit <= 0 || limit >= has {
			ns.Errorf("the limit %s of %s is %q (%v)", s.V1, what, value, err)
		}
		if s.Controller == "pids" && limit > 4096 {
			ns.Errorf("a pod may have %d processes", limit)
		}
	}
	r, err := ns.node.Brink("check", "--config", ns.node.ConfigFile())
	if err != nil {
		ns.Fatal(err)
	}
	ns.mustContain(r.Stdout, "MiB memory together and")
}

// takesNoCBC offers each port what it must not take, and as a control what it must.
func (ns *namespace) takesNoCBC(port string) {
	ns.Helper()
	var bad, good []uint16
	for _, suite := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if strings.Contains(suite.Name, "_CBC_") {
			bad = append(bad, suite.ID)
		} else if strings.HasPrefix(suite.Name, "TLS_ECDHE_") && strings.Contains(suite.Name, "_GCM_") {
			good = append(good, suite.ID)
		}
	}
	offer := func(suites []uint16) error {
		raw, err := ns.node.Netns().Dial(ns.Context(), "tcp", ns.node.Addr.String()+":"+port)
		if err != nil {
			ns.Fatal(err)
		}
		defer func() { _ = raw.Close() }()
		return tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12, CipherSuites: suites}).HandshakeContext(ns.Context())
	}
	if err := offer(bad); err == nil {
		ns.Errorf("port %s takes a cipher suite in CBC mode", port)
	}
	if err := offer(good); err != nil {
		ns.Errorf("port %s: %v", port, err)
	}
}

// runDirIsClosed: users of the machine may pass, to the roots of their namespaces, and
// find nothing that they can open.
func (ns *namespace) runDirIsClosed() {
	ns.Helper()
	root := ns.node.Inside(ns.node.Layout().Run())
	sockets := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return skipGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return skipGone(err)
		}
		mode := info.Mode()
		switch {
		case path == root && mode.Perm() != 0o711:
			ns.Errorf("the run directory is %v, want 0711", mode)
		case mode&fs.ModeSocket != 0:
			sockets++
			if mode.Perm() != 0o600 {
				ns.Errorf("the socket %s is %v, want 0600", path, mode)
			}
		case d.IsDir() && mode.Perm()&0o001 == 0:
			return ns.socketsBelow(path)
		case d.IsDir() && mode.Perm()&0o004 != 0:
			ns.Errorf("others may look into %s: %v", path, mode)
		case d.Name() == "rootfs":
			return fs.SkipDir // the container's own
		case mode.IsRegular() && mode.Perm()&0o006 != 0:
			ns.Errorf("others may open %s: %v", path, mode)
		}
		return nil
	})
	if err != nil {
		ns.Fatal(err)
	}
	if sockets < 3 {
		ns.Errorf("only %d sockets seen", sockets)
	}
}

// socketsBelow checks the sockets of a directory that nobody else may enter.
func (ns *namespace) socketsBelow(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return skipGone(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode()&fs.ModeSocket != 0 && info.Mode().Perm() != 0o600 {
			ns.Errorf("the socket %s is %v, want 0600", filepath.Join(dir, e.Name()), info.Mode())
		}
	}
	return fs.SkipDir
}

// skipGone passes over what has ended meanwhile: other tests use the node too.
func skipGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

const strangersPod = `
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000}
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "stat -c '%a %n' / /etc/resolv.conf /etc/hosts /made && cat /etc/resolv.conf /etc/hosts >/dev/null && echo read-all"]
    volumeMounts: [{name: made, mountPath: /made}]
  volumes: [{name: made, hostPath: {path: DIR/made, type: DirectoryOrCreate}}]
`

// TestInherited starts brink as an unlucky script does: everybody shut out, few
// files, behind a proxy that is for pulls and does not answer, and with a run
// directory that somebody has made.
func TestInherited(t *testing.T) {
	t.Parallel()
	n := prepareNode(t)
	n.Wrap = []string{"sh", "-c", `umask 077; ulimit -n 1024; exec "$@"`, "sh"}
	n.Env = append(n.Env, "HTTPS_PROXY=http://"+lanHost+":9", "HTTP_PROXY=http://"+lanHost+":9")
	run := n.Inside(n.Layout().Run())
	if err := os.MkdirAll(run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.ImportImages(imageArchive); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	ns.apply(strings.ReplaceAll(strangersPod, "DIR", n.Dir))
	ns.finishedPod("stranger")
	// The answer comes from the kubelet, and not through the proxy.
	ns.mustEqual("what a user in a pod sees", strings.TrimSpace(ns.logs("stranger")), "755 /\n644 /etc/resolv.conf\n644 /etc/hosts\n755 /made\nread-all")
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	ns.mustEqual("exec", ns.exec("box", "echo", "hello"), "hello")
	info, err := os.Stat(run)
	if err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the run directory is %v (%v), want 0711", info.Mode(), err)
	}
	n.tellsOfFewFiles(t)
	n.keepsItsRange(t)
}

// keepsItsRange: a cluster whose Services have addresses is not started with another
// range of them, and its certificate stays as it is.
func (n *node) keepsItsRange(t *testing.T) {
	t.Helper()
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	certificate := n.tls().Cert(pki.ServingAPIServer)
	before, err := os.ReadFile(certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Configure("service-cidr", "10.44.0.0/16"); err != nil {
		t.Fatal(err)
	}
	n.refuses(t, "--service-cidr=10.44.0.0/16", "10.43.0.0/16")
	if after, err := os.ReadFile(certificate); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the refused start has changed the certificate (%v)", err)
	}
}

// tellsOfFewFiles: where root may have more, brink takes them.
func (n *node) tellsOfFewFiles(t *testing.T) {
	t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", n.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var limit string
	for _, line := range lines(string(limits)) {
		if rest, found := strings.CutPrefix(line, "Max open files"); found {
			limit = strings.Fields(rest)[1]
		}
	}
	r, err := n.Brink("check", "--config", n.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	const told = "brink may have 1024 files open"
	switch {
	case limit == "1048576":
	case limit != "1024":
		t.Errorf("brink may have %s files open, neither what is wanted nor what was given", limit)
	case !strings.Contains(r.Stdout, told):
		t.Errorf("check does not tell of few files:\n%s", r.Stdout)
	default:
		if err := n.Says("err", told); err != nil {
			t.Error(err)
		}
	}
}

// TestSecretsOfArguments looks at the process list while brink initialises its
// packages, which it cannot go on with: it traces each on an output that nobody
// reads.
func TestSecretsOfArguments(t *testing.T) {
	const secret = "xyzzy"
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = read.Close() }()
	const page = 4096
	if _, err := unix.FcntlInt(write.Fd(), unix.F_SETPIPE_SZ, page); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(brinkBinary, "agent", "--server=https://127.0.0.1:9", "--token", secret, "--datastore-endpoint=mysql://u:"+secret+"@db")
	cmd.Env = []string{"GODEBUG=inittrace=1", "BRINK_TOKEN=" + secret}
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	_ = write.Close()
	err = eventually(func() error {
		unread, err := unix.IoctlGetInt(int(read.Fd()), unix.TIOCINQ)
		if err == nil && unread < page*9/10 {
			err = fmt.Errorf("it has traced %d bytes", unread)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"cmdline", "environ"} {
		shown, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", cmd.Process.Pid, file))
		if err != nil || len(shown) == 0 {
			t.Fatalf("%s: %q %v", file, shown, err)
		}
		if bytes.Contains(shown, []byte(secret)) || !bytes.Contains(shown, []byte("*****")) {
			t.Errorf("%s is %q", file, shown)
		}
	}
}

package install

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/e2e/guest"
)

// fault is a way to run install.sh that must be refused in one line.
type fault struct {
	variables, args string
	want            string
	prepare, mend   string // shell, in the guest
	fresh           bool   // not where a server runs: it would be refused for being an agent, or is no fault
}

// faults are for a machine without brink: after each, it is as before.
var faults = map[string]fault{
	"no such version":         {variables: "INSTALL_BRINK_VERSION=v1.99.0+brink.1", want: "is v1.99.0+brink.1 a release?"},
	"a version of k3s":        {variables: "INSTALL_K3S_VERSION=v1.36.3+k3s1", want: "is a version of k3s"},
	"no version":              {variables: "INSTALL_BRINK_VERSION=../x", want: "is not a version of brink"},
	"no such channel":         {variables: "INSTALL_BRINK_CHANNEL=nightly", want: "cannot fetch"},
	"a wrong sum":             {variables: "INSTALL_BRINK_VERSION=v0.0.1+brink.1", want: "does not have the sum", fresh: true},
	"another version's sums":  {variables: "INSTALL_BRINK_VERSION=v0.0.2+brink.1", want: "is not that of version"},
	"a signature is wanted":   {variables: "INSTALL_BRINK_REQUIRE_SIGNATURE=true", want: "the signature cannot be checked"},
	"nowhere":                 {variables: "INSTALL_BRINK_MIRROR=", want: "INSTALL_BRINK_MIRROR=URL"},
	"an unknown variable":     {variables: "INSTALL_BRINK_CHANEL=stable", want: "INSTALL_BRINK_CHANEL: there is no such variable"},
	"an unknown flag":         {args: "server --bogus=1", want: "flag provided but not defined: -bogus"},
	"a flag of the other":     {variables: "BRINK_URL=https://192.0.2.1:6443", args: "--tls-san=x", want: "flag provided but not defined: -tls-san", fresh: true},
	"a component's flag":      {args: "server --kubelet-arg=max-pods=many", want: "--kubelet-arg=max-pods=many"},
	"the configuration":       {want: "no-such-key", prepare: "mkdir /etc/brink; echo no-such-key: 1 >/etc/brink/config.yaml", mend: "rm -r /etc/brink"},
	"a token of k3s":          {variables: "K3S_URL=https://192.0.2.1:6443 K3S_TOKEN=K10abc::server:x", want: "is one of k3s", fresh: true},
	"a token on a server":     {variables: "K3S_TOKEN=secret", want: "a server makes its own token"},
	"embedded etcd":           {variables: "K3S_CLUSTER_INIT=true", want: "no embedded etcd"},
	"a URL without TLS":       {variables: "BRINK_URL=http://192.0.2.1:6443", want: "it begins with https://", fresh: true},
	"a boolean misspelled":    {variables: "INSTALL_BRINK_REQUIRE_SIGNATURE=yes", want: "INSTALL_BRINK_REQUIRE_SIGNATURE=yes: true or false"},
	"a relative directory":    {variables: "INSTALL_BRINK_BIN_DIR=bin", want: "they begin with /"},
	"a name with a dot":       {variables: "INSTALL_BRINK_NAME=a.bak", want: "INSTALL_BRINK_NAME=a.bak"},
	"a quote that is open":    {variables: `INSTALL_BRINK_EXEC="server --node-label='a"`, want: "a quote in it is not closed"},
	"a package's binary":      {variables: "INSTALL_BRINK_BIN_DIR=/opt/pkg", want: "/opt/pkg/brink is of a package", prepare: "mkdir /opt/pkg; cp /bin/true /opt/pkg/brink; cp -p /var/lib/dpkg/info/base-files.list /root/; echo /opt/pkg/brink >>/var/lib/dpkg/info/base-files.list", mend: "mv /root/base-files.list /var/lib/dpkg/info/; rm -r /opt/pkg"},
	"an agent's own file":     {args: "--tls-san=x", want: "flag provided but not defined: -tls-san", prepare: "echo BRINK_URL=https://192.0.2.1:6443 >/etc/default/brink-agent", mend: "rm /etc/default/brink-agent"},
	"a board of ARMv6":        {variables: "INSTALL_BRINK_ARCH=armv6l", want: "ARMv6"},
	"another architecture":    {variables: "INSTALL_BRINK_ARCH=arm64", want: "has no brink-linux-arm64"},
	"nothing laid":            {variables: "INSTALL_BRINK_SKIP_DOWNLOAD=true", want: "lay it there first", fresh: true},
	"a full card":             {want: "MB free", prepare: "mount -t tmpfs -o size=50m tmpfs /usr/local/bin", mend: "umount /usr/local/bin"},
	"nothing can be written":  {want: "nothing was installed", prepare: "mount --bind /usr/local/bin /usr/local/bin; mount -o remount,bind,ro /usr/local/bin", mend: "umount /usr/local/bin"},
	"nothing can be executed": {want: "does not run here", prepare: "mount -t tmpfs -o noexec,size=400m tmpfs /usr/local/bin", mend: "umount /usr/local/bin"},
}

// spoiled is a release that somebody has changed.
func (p published) spoiled(t *testing.T) {
	t.Helper()
	p.AddAs(guest.Program(t), "v0.0.1+brink.1")
	p.AddAs(guest.Program(t), "v0.0.2+brink.1")
	p.Channel("stable", p.version)
	p.Channel("latest", p.version)
	good := filepath.Join(p.Dir, p.version, "brink-linux-amd64.gz")
	for _, suffix := range []string{".gz", ".zst"} {
		if err := os.WriteFile(filepath.Join(p.Dir, "v0.0.1+brink.1", "brink-linux-amd64"+suffix), half(t, good), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sums, err := os.ReadFile(filepath.Join(p.Dir, "v0.0.1+brink.1", "SHA256SUMS"))
	if err == nil {
		err = os.WriteFile(filepath.Join(p.Dir, "v0.0.2+brink.1", "SHA256SUMS"), sums, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func half(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content[:len(content)/2]
}

// TestScriptRefuses: one line says what is wrong, nothing is left, and a node that ran
// before runs on.
func TestScriptRefuses(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	p := publish(g)
	p.spoiled(t)
	before := g.Snapshot()
	for name, f := range faults {
		p.mustRefuse(g, name, f)
	}
	mustBeAsBefore(g, before)

	p.installed(g, "")
	node := brinkProcess(g)
	for name, f := range faults {
		if f.prepare == "" && !f.fresh {
			p.mustRefuse(g, name, f)
		}
	}
	if now := brinkProcess(g); now != node {
		t.Errorf("the node's process was %s and is %s after runs that were refused", node, now)
	}
	goesBack(g, p)
	g.Sh("brink-uninstall.sh")
	mustBeAsBefore(g, before)
}

// goesBack: what only a start finds out brings back what ran before.
func goesBack(g *guest.Guest, p published) {
	g.Helper()
	r := p.script(g, "INSTALL_BRINK_SKIP_CHECK=true NO_PROXY=192.0.2.0/24", "server", "--bind-address=192.0.2.77", "--data-dir=/srv/other") // check would find that
	if r.Code == 0 || !strings.Contains(r.Stderr, "runs as before") {
		g.Errorf("a start that fails: %v", r)
	}
	awaitReady(g)
	if unit := g.Read("/etc/systemd/system/brink.service"); strings.Contains(unit, "192.0.2.77") {
		g.Errorf("the unit is that of the start that failed:\n%s", unit)
	}
	if r := g.TrySh("cat /etc/systemd/system/brink.service.env; grep /srv/other /etc/systemd/system/brink* /usr/local/bin/brink-*.sh"); r.Stdout != "" {
		g.Errorf("left of the start that failed: %v", r)
	}
	g.Sh("rm -rf /srv/other")
}

func (p published) mustRefuse(g *guest.Guest, name string, f fault) {
	g.Helper()
	if f.prepare != "" {
		g.Sh(f.prepare)
	}
	r := p.script(g, f.variables, f.args)
	if r.Code == 0 || !strings.Contains(r.Stderr, f.want) {
		g.Errorf("%s: %v, want %q", name, r, f.want)
	}
	if f.mend != "" {
		g.Sh(f.mend)
	}
}

// steps are those of main in install.sh, from the first that writes.
var steps = []string{
	"bring", "check_machine", "remember", "place_scripts pending", "place_binary", "place_links", "leave_links_alone", "place_service", "enable_service", "start",
}

// TestScriptKilled: killed after each of its steps, a run breaks nothing that runs, and the
// next one finishes it.
func TestScriptKilled(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	before := g.Snapshot()
	p := publish(g)
	for _, step := range steps { // nothing runs before
		p.killedAfter(g, step, 39)
		if step == "start" {
			break
		}
	}
	p.installed(g, "")
	awaitReady(g)
	awaitPods(g, 39)
	for i, step := range steps[3:] { // the node runs
		node := brinkProcess(g)
		p.killedAfter(g, step, 40+i)
		if step != "start" && brinkProcess(g) != node {
			t.Errorf("killed after %s, the node does not run on", step)
		}
		p.installed(g, "")
		if step != "place_scripts pending" && step != "place_binary" && step != "place_links" && step != "leave_links_alone" {
			awaitPods(g, 40+i)
		}
	}
	g.Sh("brink-uninstall.sh")
	mustBeAsBefore(g, before)
}

// killedAfter runs a script that is killed after a step of main, with a flag.
func (p published) killedAfter(g *guest.Guest, step string, maxPods int) {
	g.Helper()
	line := "\n\t" + step + "\n"
	script := g.Do("curl", "-sf", p.url+"/install.sh")
	i := strings.LastIndex(script, line)
	if i < 0 {
		g.Fatalf("install.sh has no step %q", step)
	}
	i += len(line)
	g.Write("/root/killed.sh", script[:i]+"\tkill -KILL $$\n"+script[i:], 0o755)
	r := g.TrySh(fmt.Sprintf("INSTALL_BRINK_MIRROR=%s sh /root/killed.sh server --kubelet-arg=max-pods=%d", p.url, maxPods))
	if r.Code != 137 {
		g.Fatalf("killed after %s: %v", step, r)
	}
	g.Sh("rm /root/killed.sh")
}

func awaitPods(g *guest.Guest, maxPods int) {
	g.Helper()
	g.EventuallySh("what a flag says", fmt.Sprintf(`[ "$(kubectl get node -o 'jsonpath={.items[0].status.capacity.pods}')" = %d ]`, maxPods))
}

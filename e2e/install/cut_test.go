package install

import (
	"fmt"
	"strings"
	"testing"

	"brink/e2e/guest"
)

// cutCommands are what install.sh changes a machine by. In front of each a run can be
// cut off.
const cutCommands = "curl tee chmod mkdir rm ln mv cp sync systemctl rc-update rc-service"

// layCuts puts a program before each of cutCommands that counts calls, and kills all
// processes of the run before the call whose number stands in /opt/cuts/at.
func layCuts(g *guest.Guest) {
	g.Helper()
	g.Write("/opt/cuts/cut", `#!/bin/sh
name=${0##*/}
exec 8>/opt/cuts/lock
flock 8
count=$(($(cat /opt/cuts/count) + 1))
echo $count >/opt/cuts/count
exec 8>&-
if [ $count = "$(cat /opt/cuts/at)" ]; then
	echo "$name $*" >/opt/cuts/what
	kill -9 0
fi
PATH=${PATH#/opt/cuts/bin:}
exec "$name" "$@"
`, 0o755)
	g.Sh(`mkdir /opt/cuts/bin
for name in ` + cutCommands + `; do
	! command -v $name >/dev/null || ln -s ../cut /opt/cuts/bin/$name
done`)
}

// TestCut cuts off run after run of install.sh at each of its steps, each going on from
// what the one before left: no step leaves what the next run cannot finish, nor a binary
// that is not whole, and the last one ends in a Ready node.
func TestCut(t *testing.T) {
	for _, recipe := range recipes {
		t.Run(recipe.Name, func(t *testing.T) {
			t.Parallel()
			g := guest.New(t, recipe)
			layCuts(g)
			before := g.Snapshot()
			site := publish(g).url
			cuts := 0
			for at := 1; cutInstall(g, site, at); at++ {
				cuts++
			}
			t.Logf("%d runs were cut off", cuts)
			if cuts < 15 {
				t.Errorf("only %d runs were cut off", cuts)
			}
			awaitReady(g)
			deployWeb(g)
			uninstall(g)
			// Nobody can remove the temporary directory of a run that was killed.
			mustEqual(g, before, g.Snapshot(), append(remaining, "file /tmp/", "file /opt/cuts/")...)
		})
	}
}

// cutInstall runs install.sh until its step of a number, and reports whether it has so many.
func cutInstall(g *guest.Guest, site string, at int) (cut bool) {
	g.Helper()
	g.Sh(fmt.Sprintf("echo %d >/opt/cuts/at; echo 0 >/opt/cuts/count; rm -f /opt/cuts/what; curl -sf -o /opt/cuts/install.sh %s/install.sh", at, site))
	r := g.TrySh("export PATH=/opt/cuts/bin:$PATH INSTALL_BRINK_MIRROR=" + site + "; setsid -w sh /opt/cuts/install.sh")
	what := strings.TrimSpace(g.TrySh("cat /opt/cuts/what").Stdout)
	if what == "" {
		if r.Code != 0 {
			g.Fatalf("the run after %d cuts: %v", at-1, r)
		}
		return false
	}
	g.Logf("cut off before: %s", what)
	if r := g.TrySh("[ ! -e " + brink + " ] || " + brink + " version"); r.Code != 0 {
		g.Errorf("cut off before %q, the binary that is there does not run: %v", what, r)
	}
	return true
}

package install

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"brink/e2e/guest"
	"brink/e2e/image"
)

// kubectl and the rest of brink's commands are called by the whole path, as the links
// are not everywhere.
const brink = "/usr/local/bin/brink"

const busybox = "e2e.local/busybox:1"

// archives has for each architecture a function that makes an archive with busybox once.
var archives = map[string]func() (string, error){
	"":      sync.OnceValues(func() (string, error) { return makeArchive("", image.Busybox) }),
	"arm64": sync.OnceValues(arm64Archive),
}

func arm64Archive() (string, error) {
	root, err := guest.ARM64.Root()
	if err != nil {
		return "", err
	}
	return makeArchive("arm64", filepath.Join(root, image.Busybox))
}

func makeArchive(architecture, program string) (string, error) {
	box, err := image.BusyboxFilesOf(program)
	if err != nil {
		return "", err
	}
	path := filepath.Join(guest.Scratch(), architecture+"busybox.tar")
	return path, image.Write(path, image.Image{Name: busybox, Architecture: architecture, Layers: [][]image.File{box}})
}

// imageArchive is an archive with busybox for the guest.
func imageArchive(g *guest.Guest) string {
	g.Helper()
	path, err := archives[g.Architecture()]()
	if err != nil {
		g.Fatal(err)
	}
	return path
}

// web are two servers whose first process hears no SIGTERM, as that of many images, and
// their Service. The pods have the grace period that Kubernetes gives.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: ` + busybox + `
          imagePullPolicy: IfNotPresent
          command: [sh, -c, "mkdir -p /www && echo served > /www/index.html && exec httpd -f -p 8080 -h /www"]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

// deployWeb brings the image onto the node, runs web, and waits until its Service answers.
func deployWeb(g *guest.Guest) {
	g.Helper()
	g.Place(imageArchive(g), "/root/busybox.tar", 0o644)
	g.Do(brink, "images", "import", "/root/busybox.tar")
	g.Sh("rm /root/busybox.tar")
	// Without the documents that kubectl validates by: an emulated machine needs longer to
	// make them than kubectl waits.
	if r := g.RunInput(web, brink, "kubectl", "apply", "--validate=false", "-f", "-"); r.Code != 0 {
		g.Fatalf("deploying web: %v", r)
	}
	g.Do(brink, "kubectl", "rollout", "status", "deployment/web", "--timeout=180s")
	awaitWeb(g)
}

// awaitWeb waits until web's Service answers.
func awaitWeb(g *guest.Guest) {
	g.Helper()
	g.EventuallySh("an answer of web", `[ "$(curl -sf --max-time 5 http://`+webAddress(g)+`/)" = served ]`)
}

// webAddress is the address of web's Service.
func webAddress(g *guest.Guest) string {
	g.Helper()
	return g.EventuallySh("web's address", brink+` kubectl get service web -o 'jsonpath={.spec.clusterIP}'`)
}

// webProcesses are the numbers of web's processes. They are two for each moment in which
// no probe is being answered: busybox's server does that in a process of its own.
func webProcesses(g *guest.Guest) string {
	g.Helper()
	return g.EventuallySh("web's two processes", `set -- $(pgrep -x httpd); [ $# = 2 ] && echo $*`)
}

// awaitReady waits until the node is Ready by its own word and by the API's.
func awaitReady(g *guest.Guest) {
	g.Helper()
	g.EventuallySh("a Ready node", brink+" status")
	g.EventuallySh("a Node that is Ready", brink+` kubectl wait --for=condition=Ready node --all --timeout=60s`)
}

// mustEqual fails the test when two snapshots differ.
func mustEqual(g *guest.Guest, before, after guest.Snapshot, ignore ...string) {
	g.Helper()
	if d := before.Diff(after, ignore...); len(d) > 0 {
		g.Errorf("%s", fmt.Sprintf("%d things are not as before:\n%s", len(d), strings.Join(d, "\n")))
	}
}

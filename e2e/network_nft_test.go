package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/host"
)

// hostNFT is where Debian has it.
const hostNFT = "/usr/sbin/nft"

// TestBareMachine: a machine without /etc/protocols, without /etc/hosts and then without
// nft needs nothing but its kernel: brink's own nft writes the rules, all Services answer
// after restarts too, and uninstalling leaves nothing.
func TestBareMachine(t *testing.T) {
	t.Parallel()
	n := prepareNode(t)
	n.inMachine(t, "rm /etc/protocols /etc/hosts && mv "+hostNFT+" "+hostNFT+".away && cp -p "+hostNFT+".away "+hostNFT)
	n.Foreign = []string{"file " + n.Dir + "/upper/etc/protocols", "file " + n.Dir + "/upper" + hostNFT} // what this test changes
	t.Cleanup(func() { n.inMachine(t, "mv "+hostNFT+".away "+hostNFT) })                                 // what looks for leftovers needs it
	n.runNetworkManager(t)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	pods := ns.back()
	n.usesNFT(t, "brink's own")
	ns.servicesAnswer(pods[0].Name)

	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.inMachine(t, "rm "+hostNFT)
	if r, err := n.Brink(append([]string{"check"}, n.Flags("config")...)...); err != nil || r.Code != 0 || !strings.Contains(r.Stdout, "the program nft is not installed") {
		t.Errorf("brink check: %v %v", err, r)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	n.usesNFT(t, "brink's own")
	ns.servicesAnswer(pods[0].Name)
	ns.kubectl("scale", "deployment", "back", "--replicas=1")
	ns.endpointsAre("plain", ns.readyPods("app=back", 1)...) // one more change of the rules
	ns.servicesAnswer("")
	ns.close()
	n.toldNetworkManager(t, 1, true)
	n.uninstallBare(t)
	n.toldNetworkManager(t, 2, false)
}

// servicesAnswer asks every kind of Service. A proxy that does not find its own elements
// again has one of them at a time.
func (ns *namespace) servicesAnswer(from string) {
	ns.Helper()
	plain, sticky, node := ns.serviceIP("plain"), ns.serviceIP("sticky"), ns.node.Netns()
	asks := map[string]func() (string, error){
		"plain":  func() (string, error) { return node.Get("http://" + plain + "/hostname") },
		"sticky": func() (string, error) { return node.Get("http://" + sticky + "/hostname") },
		"tcp":    func() (string, error) { return readAll(node, plain+":82") },
		"udp":    func() (string, error) { return node.AskUDP(plain + ":81") },
		"NodePort": func() (string, error) {
			return node.Get("http://" + ns.node.Addr.String() + ":" + ns.nodePort("outside", "http") + "/hostname")
		},
	}
	if from != "" {
		asks["from a pod"] = func() (string, error) {
			return ns.tryKubectl("exec", from, "--", "/server", "get", "http://"+plain+"/hostname")
		}
	}
	for what, ask := range asks {
		ns.eventually(what, func() error {
			name, err := ask()
			if err == nil && !strings.HasPrefix(name, "back-") {
				err = fmt.Errorf("%q answers", name)
			}
			return err
		})
	}
}

// usesNFT fails unless `brink status` says so, and the rules have names of protocols.
func (n *node) usesNFT(t *testing.T, whose string) {
	t.Helper()
	r, err := n.Brink(append([]string{"status"}, n.Flags("data-dir")...)...)
	if err != nil || !strings.Contains(r.Stdout, whose) {
		t.Errorf("brink status does not say %q: %v %v", whose, err, r)
	}
	own, err := filepath.Glob(filepath.Join(n.Dir, "data", "data", "*", "nft", "nft"))
	if err != nil || len(own) != 1 {
		t.Fatalf("brink's own nft is %v (%v)", own, err)
	}
	rules, err := n.Run("", own[0], "list", "map", "ip", "kube-proxy", "service-ips")
	if err != nil || !strings.Contains(rules.Stdout, "10.43.0.1 . tcp . 443") {
		t.Errorf("the rules are: %v %v", err, rules)
	}
}

func (n *node) inMachine(t *testing.T, command string) {
	t.Helper()
	if r, err := n.Run("", "sh", "-c", command); err != nil || r.Code != 0 {
		t.Fatalf("%s: %v %v", command, err, r)
	}
}

// runNetworkManager runs a program of that name, which writes a line each time it is told
// to read its files.
func (n *node) runNetworkManager(t *testing.T) {
	t.Helper()
	program, log := filepath.Join(n.Dir, "NetworkManager"), filepath.Join(n.Dir, "hups")
	text := "#!/bin/sh\ntrap 'echo hup >>" + log + "' HUP\necho $$ >" + log + ".pid\nwhile sleep 0.1; do :; done\n"
	if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	n.inMachine(t, "mkdir -p /etc/NetworkManager/conf.d")
	// Whoever runs the tests may ignore the signal, as nohup does: a shell cannot trap it then.
	cmd := n.Command(context.Background(), "env", "--default-signal=HUP", program)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.inMachine(t, "kill $(cat "+log+".pid); rm -r /etc/NetworkManager")
		_ = cmd.Wait() // it was killed
	})
}

// toldNetworkManager fails unless NetworkManager has read its files so often and brink's
// file is there, or is not.
func (n *node) toldNetworkManager(t *testing.T, times int, isThere bool) {
	t.Helper()
	err := eventually(func() error {
		hups, _ := os.ReadFile(filepath.Join(n.Dir, "hups"))
		if got := strings.Count(string(hups), "hup"); got != times {
			return fmt.Errorf("NetworkManager was told %d times, want %d", got, times)
		}
		return nil
	})
	text, _ := os.ReadFile(filepath.Join(n.Holder.Proc("root"), host.NetworkManagerFile))
	if err != nil || isThere != strings.Contains(string(text), "unmanaged-devices+=interface-name:veth*") {
		t.Errorf("%v; its file has %q", err, text)
	}
}

// uninstallBare uninstalls where there is no nft, and puts the machine's files back.
func (n *node) uninstallBare(t *testing.T) {
	t.Helper()
	hosts := filepath.Join(n.Holder.Proc("root"), "etc", "hosts")
	if text, err := os.ReadFile(hosts); err != nil || !strings.Contains(string(text), "localhost") {
		t.Errorf("brink's /etc/hosts is %q (%v)", text, err)
	}
	r, err := n.Brink(append([]string{"uninstall", "--yes"}, n.Flags("data-dir")...)...)
	if err := errors.Join(err, contains(r.Stdout, "/etc/hosts"), contains(r.Stdout, "ip kube-proxy"), contains(r.Stdout, "inet brink")); err != nil || r.Code != 0 {
		t.Errorf("brink uninstall: %v %v", err, r)
	}
	if _, err := os.Stat(hosts); err == nil {
		t.Error("brink's /etc/hosts is still there")
	}
}

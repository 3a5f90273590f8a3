package e2e

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"brink/e2e/machine"
)

// frame is what goes into the tunnel's port to forge a datagram between pods: VXLAN
// with the cluster's identifier 1, Ethernet to the end of a node's tunnel, IPv4 and
// UDP from port 53 to one that nobody has.
func frame(to string, from, pod netip.Addr) []byte {
	udp := []byte{0, 53, 0x9c, 0x40, 0, 12, 0, 0, 'f', 'a', 'k', 'e'}
	ip := append([]byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, 17, 0, 0}, append(from.AsSlice(), pod.AsSlice()...)...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
	ethernet := []byte{0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9, 8, 0}
	for i, part := range strings.Split(to, ":") {
		n, _ := strconv.ParseUint(part, 16, 8)
		ethernet[i] = byte(n)
	}
	return append(append(append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, ethernet...), ip...), udp...)
}

// tunnelMAC is the address of the end of a node's tunnel.
func (ns *namespace) tunnelMAC(n *node) string {
	ns.Helper()
	r, err := n.Run("", "ip", "-o", "link", "show", "brink-vxlan")
	_, rest, ok := strings.Cut(r.Stdout, "link/ether ")
	if err != nil || !ok {
		ns.Fatalf("the end of the tunnel of %s: %v %v", n.ID, err, r)
	}
	return strings.Fields(rest)[0]
}

// refused counts the datagrams that have come to a pod for ports that nobody has.
func (ns *namespace) refused(pod string) int {
	ns.Helper()
	var names []string
	for line := range strings.Lines(ns.exec(pod, "cat", "/proc/net/snmp")) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "NoPorts" {
				n, err := strconv.Atoi(fields[i])
				if err != nil {
					ns.Fatal(err)
				}
				return n
			}
		}
	}
	ns.Fatal("no count of refused datagrams")
	return 0
}

// sendFrom sends a datagram from a network namespace.
func sendFrom(from machine.Netns, to string, payload []byte) error {
	conn, err := from.Dial(context.Background(), "udp", to)
	if err != nil {
		return err
	}
	_, err = conn.Write(payload)
	return errors.Join(err, conn.Close())
}

// unprivileged is the specification of a pod that may nothing.
const unprivileged = "    securityContext: {runAsUser: 65534, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n  nodeName: "

// TestForgedFrames: neither a pod without any right nor a machine beside the nodes
// gets a packet into the pod network.
func TestForgedFrames(t *testing.T) {
	t.Parallel()
	c, ns := clusterNamespace(t)
	one, two := c.agents[0], c.agents[1]
	ns.apply(strings.NewReplacer("e2e.local/busybox:1", "e2e.local/server:1", `    command: [sleep, "100000"]`+"\n", "").Replace(sleeper("forger", unprivileged+one.ID+"\n")))
	ns.apply(sleeper("beside", "  nodeName: "+one.ID+"\n"))
	ns.apply(sleeper("victim", "  nodeName: "+two.ID+"\n"))
	pods := map[*node]*corev1.Pod{one: ns.readyPod("beside"), two: ns.readyPod("victim")}
	others := map[*node]*node{one: two, two: one}
	ns.readyPod("forger")
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	payload := func(to *node) []byte {
		pod := netip.MustParseAddr(pods[to].Status.PodIP)
		// From an address beside the other pod: the node has a route to it.
		other := netip.MustParseAddr(pods[others[to]].Status.PodIP)
		return frame(ns.tunnelMAC(to), other.Next(), pod)
	}
	port := func(n *node) string { return n.Addr.String() + ":8472" }
	arrives := func(to *node) int { return ns.refused(pods[to].Name) }
	for to, from := range others {
		before := arrives(to)
		ns.eventually("a frame of a node to arrive", func() error {
			err := sendFrom(from.Netns(), port(to), payload(to))
			if err == nil && arrives(to) == before {
				err = errors.New("it does not")
			}
			return err
		})
	}
	time.Sleep(time.Second) // those of the nodes that are under way
	before := map[*node]int{one: arrives(one), two: arrives(two)}
	for _, n := range []*node{one, two} {
		for range 3 {
			ns.exec("forger", "/server", "send", port(n), hex.EncodeToString(payload(n)))
			if err := sendFrom(sw.Netns(), port(n), payload(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(time.Second)
	for _, n := range []*node{one, two} {
		if now := arrives(n); now != before[n] {
			t.Errorf("%d forged packets came to a pod of %s", now-before[n], n.ID)
		}
	}
}

const hostServices = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: server, image: e2e.local/server:1, ports: [{containerPort: 8080, hostPort: 28090}, {containerPort: 8081, hostPort: 28091, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: names}
spec:
  dnsPolicy: Default
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: e2e.local/busybox:1, command: [sleep, "100000"]}]
`

// TestHostOfANode does to the host of a node what its owner may: a local name server,
// a firewall that starts from an empty ruleset, no default route, another network's
// leftovers.
func TestHostOfANode(t *testing.T) {
	t.Parallel()
	n := prepareNode(t)
	host := func(command string) string {
		t.Helper()
		r, err := n.Run("", "sh", "-ec", command)
		if err != nil || r.Code != 0 {
			t.Fatalf("%s: %v %v", command, err, r)
		}
		return r.Stdout
	}
	host("printf 'nameserver 127.0.0.1\\nnameserver 192.0.2.53\\n' > /etc/resolv.conf")
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	ns.apply(hostServices)
	ns.readyPod("web")
	ns.readyPod("names")
	ns.mustEqual("a pod's name servers", ns.exec("names", "grep", "nameserver", "/etc/resolv.conf"), "nameserver 192.0.2.53")
	host("printf 'nameserver ::1\\nnameserver 192.0.2.54\\n' > /etc/resolv.conf")
	ns.eventually("the change of the host's name servers", func() error {
		return contains(host("cat "+n.Layout().ResolvConf()), "nameserver 192.0.2.54")
	})

	t.Run("rules flushed", func(t *testing.T) { ns.survivesFlushes(t, host) })
	t.Run("no default route", func(t *testing.T) {
		url := "http://" + ns.serviceIP("web") + "/hostname"
		ns.getFrom(n.Netns(), url)
		host("ip route del default; ip -6 route del default")
		ns.mustEqual("the Service without a default route", ns.getFrom(n.Netns(), url), "web")
	})
	t.Run("leftovers of others", func(t *testing.T) { ns.in(t).namesLeftovers(host) })
}

// namesLeftovers: a link of another Kubernetes distribution is named by check, status
// and the log, until it is gone.
func (ns *namespace) namesLeftovers(host func(string) string) {
	ns.Helper()
	n := ns.node
	host("ip link add cni0 type bridge; ip addr add 10.42.0.1/24 dev cni0; ip link set cni0 up")
	const want = "link cni0 (another Kubernetes distribution) has the address 10.42.0.1/24"
	r, err := n.Brink(append([]string{"check"}, n.Flags("config")...)...)
	if err != nil || !strings.Contains(r.Stdout, want) {
		ns.Errorf("check says %v (%v)", r, err)
	}
	said := func() error {
		r, err := n.Status()
		return errors.Join(err, contains(r.Stdout, want))
	}
	ns.eventually("status to name the link", said)
	if err := n.Says("err", want); err != nil {
		ns.Error(err)
	}
	host("ip link del cni0")
	ns.eventually("the pod to be reached", func() error {
		if said() == nil {
			return errors.New("status still names the link")
		}
		return nil
	})
}

// survivesFlushes: a pod is reached by every address again after all rules were deleted, and
// the plugin's table is as the plugin has made it.
func (ns *namespace) survivesFlushes(t *testing.T, host func(string) string) {
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	addr := ns.node.Addr.String()
	const ports = "nft list table ip cni_hostport"
	before := host(ports)
	works := func(after string) {
		for what, ask := range map[string]func() (string, error){
			"ClusterIP": func() (string, error) { return ns.node.Netns().Get("http://" + ns.serviceIP("web") + "/hostname") },
			"NodePort": func() (string, error) {
				return sw.Netns().Get("http://" + addr + ":" + ns.nodePort("web", "") + "/hostname")
			},
			"host port":           func() (string, error) { return sw.Netns().Get("http://" + addr + ":28090/hostname") },
			"host port by UDP":    func() (string, error) { return sw.Netns().AskUDP(addr + ":28091") },
			"host port, loopback": func() (string, error) { return ns.node.Netns().Get("http://127.0.0.1:28090/hostname") },
			"itself by a Service": func() (string, error) {
				return ns.tryKubectl("exec", "web", "--", "/server", "get", "http://"+ns.serviceIP("web")+"/hostname")
			},
			"itself by a hostPort": func() (string, error) {
				return ns.tryKubectl("exec", "web", "--", "/server", "get", "http://"+addr+":28090/hostname")
			},
		} {
			ns.eventually(what+" after "+after, func() error {
				got, err := ask()
				return errors.Join(err, contains(got, "web"))
			})
		}
	}
	works("the start")
	for _, damage := range []string{"nft flush ruleset", "nft delete table ip kube-proxy", "nft delete table ip cni_hostport", `rules=$(nft list ruleset); nft flush ruleset; echo "$rules" | nft -f -`} {
		host(damage)
		works(damage)
	}
	ns.mustEqual("the table of host ports", host(ports), before)
}

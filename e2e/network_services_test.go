package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/e2e/machine"
)

const backends = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: back}
spec:
  replicas: 2
  selector: {matchLabels: {app: back}}
  template:
    metadata: {labels: {app: back}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: server
        image: e2e.local/server:1
        readinessProbe: {httpGet: {path: /check/ready, port: 8080}, periodSeconds: 1, timeoutSeconds: 10, failureThreshold: 1}
---
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  selector: {app: back}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp, port: 82, targetPort: 8082}
  - {name: udp, port: 81, targetPort: 8081, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  sessionAffinity: ClientIP
  selector: {app: back}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: back}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec:
  type: NodePort
  selector: {app: back}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: udp, port: 81, targetPort: 8081, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: back}
  ports: [{port: 80, targetPort: 8080}]
`

// back applies the backends and waits until they are the service's endpoints.
func (ns *namespace) back() []corev1.Pod {
	ns.Helper()
	ns.apply(backends)
	pods := ns.readyPods("app=back", 2)
	ns.endpointsAre("plain", pods...)
	return pods
}

// TestClusterIP asks from the node and from a pod: they take different routes
// through the kernel.
func TestClusterIP(t *testing.T) {
	ns := sharedNamespace(t)
	pods := ns.back()
	ip := ns.serviceIP("plain")
	node := ns.node.Netns()
	ns.reachesAll(pods, "HTTP from the node", func() (string, error) { return node.Get("http://" + ip + "/hostname") })
	ns.reachesAll(pods, "TCP from the node", func() (string, error) { return readAll(node, ip+":82") })
	ns.reachesAll(pods, "UDP from the node", func() (string, error) { return node.AskUDP(ip + ":81") })
	ns.reachesAll(pods, "HTTP from a pod", func() (string, error) {
		return ns.tryKubectl("exec", pods[0].Name, "--", "/server", "get", "http://"+ip+"/hostname")
	})
	ns.mustContain(ns.exec(pods[0].Name, "env"), "PLAIN_SERVICE_PORT_HTTP=80")
}

// reachesAll asks until each of the pods has answered.
func (ns *namespace) reachesAll(pods []corev1.Pod, what string, ask func() (string, error)) {
	ns.Helper()
	missing := map[string]bool{}
	for _, pod := range pods {
		missing[pod.Name] = true
	}
	ns.eventually(what+" from every backend", func() error {
		name, err := ask()
		delete(missing, name)
		if len(missing) > 0 {
			return fmt.Errorf("no answer yet from %v; last %q, %w", missing, name, err)
		}
		return nil
	})
}

// readAll is what a TCP server says before it closes.
func readAll(from machine.Netns, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

func TestSessionAffinity(t *testing.T) {
	ns := sharedNamespace(t)
	pods := ns.back()
	ns.endpointsAre("sticky", pods...)
	url := "http://" + ns.serviceIP("sticky") + "/hostname"
	first := ns.get(url)
	for range 30 { // without affinity the chance is 1 in 2^30
		ns.mustEqual("the backend of the same client", ns.get(url), first)
	}
}

// TestNodePort asks from another machine of the same network.
func TestNodePort(t *testing.T) {
	ns := sharedNamespace(t)
	pods := ns.back()
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	from, addr := sw.Netns(), ns.node.Addr.String()
	http, udp := ns.nodePort("outside", "http"), ns.nodePort("outside", "udp")
	ns.reachesAll(pods, "HTTP", func() (string, error) { return from.Get("http://" + addr + ":" + http + "/hostname") })
	ns.reachesAll(pods, "UDP", func() (string, error) { return from.AskUDP(addr + ":" + udp) })
	ns.reachesAll(pods, "the node itself", func() (string, error) {
		return ns.node.Netns().Get("http://" + addr + ":" + http + "/hostname")
	})
	client := ns.getFrom(from, "http://"+addr+":"+ns.nodePort("local", "")+"/clientip")
	ns.mustEqual("the client's address with externalTrafficPolicy Local", client, lanHost)
}

func (ns *namespace) nodePort(service, port string) string {
	ns.Helper()
	svc, err := ns.client.CoreV1().Services(ns.name).Get(ns.Context(), service, metav1.GetOptions{})
	if err != nil {
		ns.Fatal(err)
	}
	for _, p := range svc.Spec.Ports {
		if p.Name == port {
			return strconv.Itoa(int(p.NodePort))
		}
	}
	ns.Fatalf("service %s has no port %q", service, port)
	return ""
}

// endpointsAre waits until the ready endpoints of a service are these pods.
func (ns *namespace) endpointsAre(service string, pods ...corev1.Pod) {
	ns.Helper()
	want := map[string]bool{}
	for _, pod := range pods {
		want[pod.Status.PodIP] = true
	}
	ns.eventually(fmt.Sprintf("%d endpoints of %s", len(pods), service), func() error {
		got := map[string]bool{}
		for _, e := range ns.endpoints(service) {
			if *e.Conditions.Ready {
				got[e.Addresses[0]] = true
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("they are %v, want %v", got, want)
		}
		return nil
	})
}

func (ns *namespace) endpoints(service string) []discoveryv1.Endpoint {
	ns.Helper()
	list, err := ns.client.DiscoveryV1().EndpointSlices(ns.name).List(ns.Context(),
		metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		ns.Fatal(err)
	}
	var all []discoveryv1.Endpoint
	for _, slice := range list.Items {
		all = append(all, slice.Endpoints...)
	}
	return all
}

// TestEndpointsFollowReadiness: a pod that is not ready stays an endpoint that
// is not ready, and nobody is sent to it.
func TestEndpointsFollowReadiness(t *testing.T) {
	ns := sharedNamespace(t)
	pods := ns.back()
	url := "http://" + ns.serviceIP("plain") + "/hostname"
	ns.turn(&pods[0], "ready", "off")
	ns.endpointsAre("plain", pods[1])
	ns.mustEqual("the number of endpoints of any state", len(ns.endpoints("plain")), 2)
	ns.onlyFrom(url, pods[1].Name)

	ns.turn(&pods[1], "ready", "off")
	ns.endpointsAre("plain")
	ns.eventually("connections to be refused", func() error {
		name, err := ns.node.Netns().Get(url)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%q, %w", name, err)
		}
		return nil
	})
	ns.turn(&pods[0], "ready", "on")
	ns.endpointsAre("plain", pods[0])
	ns.onlyFrom(url, pods[0].Name)
}

// onlyFrom waits for the rules to follow: then twenty answers in a row come from
// one pod.
func (ns *namespace) onlyFrom(url, pod string) {
	ns.Helper()
	ns.eventually("answers from "+pod+" only", func() error {
		for range 20 {
			name, err := ns.node.Netns().Get(url)
			if err != nil || name != pod {
				return fmt.Errorf("%q, %w", name, err)
			}
		}
		return nil
	})
}

func TestHeadless(t *testing.T) {
	ns := sharedNamespace(t)
	pods := ns.back()
	ns.mustEqual("the cluster address", ns.serviceIP("headless"), corev1.ClusterIPNone)
	ns.endpointsAre("headless", pods...)
	for _, e := range ns.endpoints("headless") {
		ns.mustEqual("the answer at "+e.Addresses[0], ns.get("http://"+e.Addresses[0]+":8080/hostname"), e.TargetRef.Name)
	}
}

func TestHostPort(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(hostPortPod("front", 28081))
	ns.readyPod("front")
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ns.node.Addr.String() + ":28081/"
	ns.mustEqual("the answer from outside", ns.getFrom(sw.Netns(), url+"hostname"), "front")
	ns.mustEqual("the answer on the node", ns.get(url+"hostname"), "front")
	ns.kubectl("delete", "pod", "front")
	ns.eventually("the port to be closed", func() error {
		if _, err := sw.Netns().Get(url + "hostname"); err == nil {
			return errors.New("it still answers")
		}
		return nil
	})
}

const hairpin = `
apiVersion: v1
kind: Service
metadata: {name: self}
spec:
  selector: {app: self}
  ports: [{port: 80, targetPort: 8080}]
`

// TestHairpin: a pod that its own Service sends back to itself.
func TestHairpin(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(hairpin)
	ns.apply(strings.ReplaceAll(hostPortPod("self", 28082), ", hostPort: 28082", ""))
	ns.readyPod("self")
	url := "http://" + ns.serviceIP("self") + "/hostname"
	ns.eventually("the pod to reach itself", func() error {
		out, err := ns.tryKubectl("exec", "self", "--", "/server", "get", url)
		if err == nil && out != "self" {
			err = fmt.Errorf("%q answered", out)
		}
		return err
	})
}

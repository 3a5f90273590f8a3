package e2e

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/e2e/machine"
)

// namespace is a scenario's own Kubernetes namespace on a node. When the test
// fails, it shows what a person would look at.
type namespace struct {
	*testing.T
	node   *node
	name   string
	client kubernetes.Interface
}

// sharedNamespace makes a scenario parallel and gives it a namespace on the
// shared node.
func sharedNamespace(t *testing.T) *namespace {
	t.Helper()
	t.Parallel()
	return newNamespace(t, sharedNode(t))
}

func newNamespace(t *testing.T, n *node) *namespace {
	t.Helper()
	ns := &namespace{T: t, node: n, name: "e2e-" + machine.RandomID(), client: n.Client}
	ns.kubectlFor("", "create", "namespace", ns.name)
	t.Cleanup(ns.close)
	// A pod is refused until its service account exists.
	ns.eventually("the default service account", func() error {
		_, err := ns.client.CoreV1().ServiceAccounts(ns.name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return ns
}

// in is the namespace in a part of its test.
func (ns *namespace) in(t *testing.T) *namespace {
	part := *ns
	part.T = t
	return &part
}

func (ns *namespace) close() {
	if ns.Failed() {
		ns.Log(ns.diagnosis())
	}
	if !ns.node.Running() {
		return
	}
	// The test's own context is over in a cleanup.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := ns.client.CoreV1().Namespaces().Delete(ctx, ns.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		ns.Errorf("deleting namespace %s: %v", ns.name, err)
	}
}

// diagnosis is the state of the namespace in words.
func (ns *namespace) diagnosis() string {
	if !ns.node.Running() {
		return "brink does not run"
	}
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "all,endpointslices", "-o", "wide"},
		{"describe", "pods"},
		{"get", "events", "--sort-by=.metadata.creationTimestamp"},
	} {
		out, err := ns.tryKubectl(args...)
		fmt.Fprintf(&b, "--- kubectl %s (%v) ---\n%s\n", strings.Join(args, " "), err, out)
	}
	b.WriteString(ns.podLogs())
	if ns.node == shared.node { // others show theirs when they are closed
		b.WriteString(ns.node.LogTail())
	}
	return b.String()
}

func (ns *namespace) podLogs() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pods, err := ns.client.CoreV1().Pods(ns.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, pod := range pods.Items {
		out, err := ns.tryKubectl("logs", pod.Name, "--all-containers", "--prefix", "--tail=30")
		fmt.Fprintf(&b, "--- logs of %s (%v) ---\n%s\n", pod.Name, err, out)
	}
	return b.String()
}

// kubectlFor runs kubectl with standard input and fails the test when it fails.
func (ns *namespace) kubectlFor(stdin string, args ...string) string {
	ns.Helper()
	r := ns.kubectlResult(stdin, args...)
	if r.Code != 0 {
		ns.Fatalf("kubectl %s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

func (ns *namespace) kubectl(args ...string) string {
	ns.Helper()
	return ns.kubectlFor("", args...)
}

// tryKubectl is kubectl that may fail; the error contains what it said.
func (ns *namespace) tryKubectl(args ...string) (string, error) {
	r, err := ns.node.Run("", ns.kubectlArgs(args...)...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("kubectl %s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout, err
}

func (ns *namespace) kubectlResult(stdin string, args ...string) machine.Result {
	ns.Helper()
	r, err := ns.node.Run(stdin, ns.kubectlArgs(args...)...)
	if err != nil {
		ns.Fatal(err)
	}
	return r
}

func (ns *namespace) kubectlArgs(args ...string) []string {
	return append([]string{brinkBinary, "kubectl", "--namespace", ns.name}, args...)
}

// background starts kubectl; it ends with the test at the latest.
func (ns *namespace) background(args ...string) (*exec.Cmd, *output) {
	out := &output{}
	cmd := ns.node.Command(ns.Context(), ns.kubectlArgs(args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// ended waits for a command that was started; one that goes on is killed.
func (ns *namespace) ended(cmd *exec.Cmd, out *output) error {
	ns.Helper()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		ns.Fatalf("%s: did not end within %v\n%s", strings.Join(cmd.Args, " "), patience, out)
		return nil
	}
}

// apply applies a manifest; $NS, $NODE and $DIR in it are the namespace, the
// node's name and the machine's directory.
func (ns *namespace) apply(manifest string) {
	ns.Helper()
	ns.kubectlFor(ns.expand(manifest), "apply", "-f", "-")
}

func (ns *namespace) expand(manifest string) string {
	return strings.NewReplacer("$NS", ns.name, "$NODE", ns.node.ID, "$DIR", ns.node.Dir).Replace(manifest)
}

// exec runs a command in a pod's first container and returns its output without
// the last line end.
func (ns *namespace) exec(pod string, command ...string) string {
	ns.Helper()
	out := ns.kubectl(append([]string{"exec", pod, "--"}, command...)...)
	return strings.TrimRight(out, "\n")
}

// eventuallyExec waits until a command in a pod prints want: a kubelet that has just
// started hears of its pods a moment after it is Ready, and until then has none.
func (ns *namespace) eventuallyExec(pod, want string, command ...string) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("exec of %q in %s", command, pod), func() error {
		out, err := ns.tryKubectl(append([]string{"exec", pod, "--"}, command...)...)
		if err != nil {
			return err
		}
		return contains(out, want)
	})
}

// eventually polls cond until it returns nil. The test fails with the error of the last attempt.
func (ns *namespace) eventually(what string, cond func() error) {
	ns.Helper()
	if err := eventually(cond); err != nil {
		ns.Fatalf("waiting for %s: %v", what, err)
	}
}

func eventually(cond func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := cond()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w (gave up after %v)", err, patience)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (ns *namespace) pod(name string) *corev1.Pod {
	ns.Helper()
	pod, err := ns.client.CoreV1().Pods(ns.name).Get(ns.Context(), name, metav1.GetOptions{})
	if err != nil {
		ns.Fatal(err)
	}
	return pod
}

// pods lists the pods of a selector that are not being deleted.
func (ns *namespace) pods(selector string) []corev1.Pod {
	ns.Helper()
	list, err := ns.client.CoreV1().Pods(ns.name).List(ns.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		ns.Fatal(err)
	}
	var alive []corev1.Pod
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil {
			alive = append(alive, pod)
		}
	}
	return alive
}

// readyPods waits until the selector has exactly n pods, all Ready.
func (ns *namespace) readyPods(selector string, n int) []corev1.Pod {
	ns.Helper()
	var pods []corev1.Pod
	ns.eventually(fmt.Sprintf("%d ready pods of %s", n, selector), func() error {
		pods = ns.pods(selector)
		if len(pods) != n {
			return fmt.Errorf("there are %d", len(pods))
		}
		for _, pod := range pods {
			if !podReady(&pod) {
				return fmt.Errorf("%s is %s and not ready", pod.Name, pod.Status.Phase)
			}
		}
		return nil
	})
	return pods
}

func (ns *namespace) readyPod(name string) *corev1.Pod {
	ns.Helper()
	return ns.podThat(name, "is ready", podReady)
}

// podThat waits for a pod with a property.
func (ns *namespace) podThat(name, property string, has func(*corev1.Pod) bool) *corev1.Pod {
	ns.Helper()
	var pod *corev1.Pod
	ns.eventually("pod "+name+" that "+property, func() (err error) {
		pod, err = ns.client.CoreV1().Pods(ns.name).Get(ns.Context(), name, metav1.GetOptions{})
		if err == nil && !has(pod) {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
	return pod
}

// finishedPod waits for a pod that ran to its end, well or badly.
func (ns *namespace) finishedPod(name string) *corev1.Pod {
	ns.Helper()
	return ns.podThat(name, "has ended", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

func podReady(pod *corev1.Pod) bool { return podIs(pod, corev1.PodReady) }

func podIs(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// restarts is the restart count of a pod's named container, or of its first.
func restarts(pod *corev1.Pod) int32 {
	if len(pod.Status.ContainerStatuses) == 0 {
		return 0
	}
	return pod.Status.ContainerStatuses[0].RestartCount
}

// event waits for an event about an object whose message contains text.
func (ns *namespace) event(object, reason, text string) {
	ns.Helper()
	ns.eventually(fmt.Sprintf("event %s about %s with %q", reason, object, text), func() error {
		list, err := ns.client.CoreV1().Events(ns.name).List(ns.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.name=" + object + ",reason=" + reason})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if strings.Contains(e.Message, text) {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// serviceIP is a service's cluster address.
func (ns *namespace) serviceIP(name string) string {
	ns.Helper()
	svc, err := ns.client.CoreV1().Services(ns.name).Get(ns.Context(), name, metav1.GetOptions{})
	if err != nil {
		ns.Fatal(err)
	}
	return svc.Spec.ClusterIP
}

// get asks url from the node until it answers.
func (ns *namespace) get(url string) string {
	ns.Helper()
	return ns.getFrom(ns.node.Netns(), url)
}

func (ns *namespace) getFrom(from machine.Netns, url string) string {
	ns.Helper()
	var body string
	ns.eventually("an answer from "+url, func() (err error) {
		body, err = from.Get(url)
		return err
	})
	return body
}

// turn switches what a server pod's /check/NAME answers.
func (ns *namespace) turn(pod *corev1.Pod, name, state string) {
	ns.Helper()
	ns.get(fmt.Sprintf("http://%s:8080/set/%s/%s", pod.Status.PodIP, name, state))
}

// logs are those of one container, complete.
func (ns *namespace) logs(pod string, args ...string) string {
	ns.Helper()
	return strings.TrimSpace(ns.kubectl(append([]string{"logs", pod}, args...)...))
}

// contains returns nil when text contains part.
func contains(text, part string) error {
	if !strings.Contains(text, part) {
		return fmt.Errorf("%q is not in:\n%s", part, text)
	}
	return nil
}

// mustContain fails unless text contains all parts.
func (ns *namespace) mustContain(text string, parts ...string) {
	ns.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			ns.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

func (ns *namespace) mustEqual(what string, got, want any) {
	ns.Helper()
	if got != want {
		ns.Errorf("%s is %v, want %v", what, got, want)
	}
}

// lines is text in lines, without empty ones.
func lines(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}

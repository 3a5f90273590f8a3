package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// patience bounds every wait; running into it is a failure of the run.
	patience = 5 * time.Minute
	// retry is the pause between attempts to reach an API server that starts.
	retry     = 20 * time.Millisecond
	namespace = "default"
)

// connect waits for the administrator's kubeconfig and returns a client that
// speaks TLS and protobuf from inside the machine, without a limit of its own.
func connect(ctx context.Context, m *testbed, path string) (kubernetes.Interface, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, err := os.Stat(path); err != nil; _, err = os.Stat(path) {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s: %w", path, ctx.Err())
		case <-time.After(retry):
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, err
	}
	config.Dial = m.Netns().Dial
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	return kubernetes.NewForConfig(config)
}

// watcher is the Watch method of a typed client.
type watcher func(context.Context, metav1.ListOptions) (watch.Interface, error)

// await watches an object until ok. An API server that does not answer yet is
// asked again.
func await[T runtime.Object](ctx context.Context, watches watcher, name string, ok func(T) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for ctx.Err() == nil {
		if watchOnce(ctx, watches, name, ok) {
			return nil
		}
		time.Sleep(retry)
	}
	return fmt.Errorf("waiting for %s: %w", name, ctx.Err())
}

func watchOnce[T runtime.Object](ctx context.Context, watches watcher, name string, ok func(T) bool) bool {
	w, err := watches(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
	if err != nil {
		return false
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if obj, is := event.Object.(T); is && event.Type != watch.Deleted && ok(obj) {
			return true
		}
	}
	return false
}

// readySince reports whether the kubelet has reported Ready since a moment: a kubelet
// that ran before a restart does not count.
func readySince(since time.Time) func(*corev1.Node) bool {
	return func(node *corev1.Node) bool {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second))
			}
		}
		return false
	}
}

// deploy creates a Deployment and returns the time until all its pods are Ready.
func deploy(ctx context.Context, client kubernetes.Interface, name string, replicas int32) (time.Duration, error) {
	begun := time.Now()
	if _, err := client.AppsV1().Deployments(namespace).Create(ctx, deployment(name, replicas), metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	err := await(ctx, client.AppsV1().Deployments(namespace).Watch, name, func(d *appsv1.Deployment) bool {
		return d.Status.ReadyReplicas == replicas
	})
	return time.Since(begun), err
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	soon := int64(1)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: &soon,
					Containers: []corev1.Container{{
						Name: "sleep", Image: imageName, ImagePullPolicy: corev1.PullNever,
						Command: []string{"/bin/busybox", "sleep", "1000000"},
					}},
				},
			},
		},
	}
}

// latencies are those of single requests, sorted.
type latencies []time.Duration

func (l latencies) percentile(p int) time.Duration {
	return l[min(len(l)*p/100, len(l)-1)]
}

// timed runs f n times, one after the other.
func timed(n int, f func(i int) error) (latencies, error) {
	var out latencies
	for i := range n {
		begun := time.Now()
		if err := f(i); err != nil {
			return nil, err
		}
		out = append(out, time.Since(begun))
	}
	slices.Sort(out)
	return out, nil
}

const (
	configMaps    = 1000
	configMapSize = 1024 // bytes of data
	lists         = 200
)

// exercise creates ConfigMaps one by one, then lists all of them many times.
func exercise(ctx context.Context, client kubernetes.Interface) (create, list latencies, err error) {
	value := strings.Repeat("x", configMapSize)
	maps := client.CoreV1().ConfigMaps(namespace)
	create, err = timed(configMaps, func(i int) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%04d", i)},
			Data:       map[string]string{"value": value},
		}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	list, err = timed(lists, func(int) error {
		found, err := maps.List(ctx, metav1.ListOptions{})
		if err == nil && len(found.Items) < configMaps {
			err = fmt.Errorf("%d ConfigMaps listed, %d were created", len(found.Items), configMaps)
		}
		return err
	})
	return create, list, err
}

// undeploy deletes a Deployment and waits until its pods are gone.
func undeploy(ctx context.Context, client kubernetes.Interface, name string) error {
	if err := client.AppsV1().Deployments(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return fmt.Errorf("waiting for the pods of %s to go: %w", name, err)
		}
		if len(pods.Items) == 0 {
			return nil
		}
		time.Sleep(200 * time.Millisecond)
	}
}

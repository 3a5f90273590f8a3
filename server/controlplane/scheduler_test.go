package controlplane

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	listers "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
)

var everything = labels.Everything()

func pod(name string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Status: corev1.PodStatus{Phase: phase}}
}

// podClient is a fake client that honours field selectors when it lists pods,
// as the API server does and client-go's fake does not.
func podClient(pods ...*corev1.Pod) *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("list", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		selector := action.(clienttesting.ListAction).GetListRestrictions().Fields
		list := &corev1.PodList{}
		for _, p := range pods {
			if selector.Matches(fields.Set{"status.phase": string(p.Status.Phase)}) {
				list.Items = append(list.Items, *p)
			}
		}
		return true, list, nil
	})
	return client
}

func podNames(t *testing.T, lister listers.PodLister) []string {
	t.Helper()
	pods, err := lister.List(everything)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return out
}

// TestSchedulerSeesNoFinishedPods: it would count their requests as used;
// everyone else needs them.
func TestSchedulerSeesNoFinishedPods(t *testing.T) {
	t.Parallel()
	client := podClient(pod("pending", corev1.PodPending), pod("running", corev1.PodRunning),
		pod("succeeded", corev1.PodSucceeded), pod("failed", corev1.PodFailed))
	shared := informers.NewSharedInformerFactory(client, 0)
	everyone := shared.Core().V1().Pods()
	everyone.Informer()
	own := newSchedulerInformers(shared, client)
	scheduler := own.Core().V1().Pods()
	scheduler.Informer()
	nodes := own.Core().V1().Nodes().Informer()

	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); shared.Shutdown() })
	own.Start(stop)
	for kind, synced := range own.WaitForCacheSync(stop) {
		if !synced {
			t.Errorf("%s is not synced", kind)
		}
	}
	if got, want := podNames(t, scheduler.Lister()), []string{"pending", "running"}; !slices.Equal(got, want) {
		t.Errorf("the scheduler sees %q, want %q", got, want)
	}
	if got, want := podNames(t, everyone.Lister()), []string{"failed", "pending", "running", "succeeded"}; !slices.Equal(got, want) {
		t.Errorf("everyone else sees %q, want %q", got, want)
	}
	if !nodes.HasSynced() || nodes != shared.Core().V1().Nodes().Informer() {
		t.Error("the scheduler has an informer of nodes of its own")
	}
	if scheduler.Informer() == everyone.Informer() || scheduler.Informer() != own.InformerFor(&corev1.Pod{}, nil) {
		t.Error("the scheduler's way to pods does not lead to its own informer")
	}
}

// TestSchedulerWaitsForItsPods: pods that are not listed yet must not look
// synced, or the scheduler would fill nodes that are full.
func TestSchedulerWaitsForItsPods(t *testing.T) {
	t.Parallel()
	client := podClient()
	own := newSchedulerInformers(informers.NewSharedInformerFactory(client, 0), client)
	stop := make(chan struct{})
	close(stop)
	synced := own.WaitForCacheSync(stop)
	if len(synced) != 1 {
		t.Fatalf("waited for %v, want pods alone", synced)
	}
	for kind, ok := range synced {
		if ok {
			t.Errorf("%s is synced though it was never started", kind)
		}
	}
}

package controlplane

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/internal/testprocess"
)

// TestMutatingPolicy makes a policy, and then starts a server that finds one. No
// request may be refused because the documents are not there. Only one API server
// can be run in a process.
func TestMutatingPolicy(t *testing.T) {
	if testprocess.Argument() == "" {
		dir, err := os.MkdirTemp("", "brink-policy-") // the sockets below need a short path
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		for _, round := range []string{"first", "second"} {
			cmd := testprocess.Again(t, dir)
			cmd.Env = append(cmd.Env, "ROUND="+round)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", round, err, out)
			}
		}
		return
	}
	round := os.Getenv("ROUND")
	var cp *ControlPlane
	refused := make(chan string, 1)
	cp = startAPIServerIn(t, testprocess.Argument(), func(cp *ControlPlane) {
		if round == "second" {
			go func() { refused <- createUntilMutated(cp, round) }() // from the first moment on
		}
	})
	client, err := kubernetes.NewForConfig(cp.ClientConfig("tester", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	if round == "first" {
		if cp.apiServer.openAPI.made.Load() {
			t.Error("the documents are made though there is no policy and nobody has asked")
		}
		makePolicy(t, client)
		refused <- createUntilMutated(cp, round)
	}
	if why := <-refused; why != "" {
		t.Error(why)
	}
}

// createUntilMutated creates Deployments until one has the policy's annotation, and
// says what went wrong.
func createUntilMutated(cp *ControlPlane, round string) string {
	client, err := kubernetes.NewForConfig(cp.ClientConfig("tester", "system:masters"))
	if err != nil {
		return err.Error()
	}
	for n, deadline := 0, time.Now().Add(time.Minute); time.Now().Before(deadline); n++ {
		labels := map[string]string{"a": "b"}
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", round, n)}}
		d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
		d.Spec.Template.Labels = labels
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "x"}}
		made, err := client.AppsV1().Deployments("default").Create(context.Background(), d, metav1.CreateOptions{})
		switch {
		case apierrors.IsServiceUnavailable(err):
			return fmt.Sprintf("create %d was refused: %v", n, err)
		case err == nil && made.Annotations["mutated-by"] == "x":
			return ""
		}
		time.Sleep(20 * time.Millisecond) // the server is starting, or has not seen the policy
	}
	return "no create was mutated within a minute"
}

func makePolicy(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	fail := admissionv1.Fail
	policy := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: admissionv1.MutatingAdmissionPolicySpec{
		FailurePolicy: &fail, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
			RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
			},
		}}},
		Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{
			Expression: `Object{metadata: Object.metadata{annotations: {"mutated-by": "x"}}}`,
		}}},
	}}
	binding := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "m"}}
	if _, err := client.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

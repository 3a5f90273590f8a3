package e2e

import (
	"fmt"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const stateful = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector:
    matchLabels: {app: db}
  template:
    metadata:
      labels: {app: db}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: server
        image: e2e.local/server:1
        # Slow enough that a controller without order would be ahead of it.
        readinessProbe:
          httpGet: {path: /check/ready, port: 8080}
          initialDelaySeconds: 2
          periodSeconds: 1
          timeoutSeconds: 10
`

func TestStatefulSet(t *testing.T) {
	ns := sharedNamespace(t)
	history := ns.recordPods("app=db")
	ns.apply(stateful)
	ns.readyPods("app=db", 3)
	history.mustAdd(ns, server1, "db-0", "db-1", "db-2")

	for _, pod := range ns.readyPods("app=db", 3) {
		ns.mustEqual("the host name of "+pod.Name, ns.exec(pod.Name, "hostname"), pod.Name)
		ns.mustContain(ns.exec(pod.Name, "cat", "/etc/hosts"), pod.Name+".db."+ns.name+".svc.cluster.local")
	}
	old := ns.pod("db-1")
	ns.kubectl("delete", "pod", "db-1")
	ns.podThat("db-1", "is ready again and new", func(p *corev1.Pod) bool {
		return p.UID != old.UID && podReady(p)
	})

	ns.kubectl("set", "image", "statefulset/db", "server="+server2)
	ns.kubectl("rollout", "status", "statefulset/db", "--timeout=170s")
	ns.readyPods("app=db", 3)
	history.mustAdd(ns, server2, "db-2", "db-1", "db-0")
	ns.versionsOf("app=db", "2")
}

// mustAdd checks the order in which the pods with an image began: each one only
// when all those before it were ready.
func (h *podHistory) mustAdd(ns *namespace, image string, names ...string) {
	ns.Helper()
	var order []string
	h.replay(ns, func(e podEvent, before map[string]*corev1.Pod) {
		if e.kind != watch.Added || e.pod.Spec.Containers[0].Image != image {
			return
		}
		for _, earlier := range order {
			if p := before[earlier]; p == nil || !podReady(p) {
				ns.Errorf("%s began before %s was ready", e.pod.Name, earlier)
			}
		}
		order = append(order, e.pod.Name)
	})
	if got, want := strings.Join(order, " "), strings.Join(names, " "); got != want {
		ns.Errorf("pods with %s began in the order %s, want %s", image, got, want)
	}
}

const jobs = `
apiVersion: batch/v1
kind: Job
metadata: {name: good}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: e2e.local/busybox:1
        command: [sh, -c, "echo index $JOB_COMPLETION_INDEX; sleep 2"]
---
apiVersion: batch/v1
kind: Job
metadata: {name: bad}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: e2e.local/busybox:1
        command: [sh, -c, "exit 3"]
`

func TestJob(t *testing.T) {
	ns := sharedNamespace(t)
	history := ns.recordPods("job-name=good")
	ns.apply(jobs)
	good := ns.endedJob("good")
	ns.mustEqual("the good job's completions", good.Status.Succeeded, int32(3))
	ns.mustEqual("its completed indexes", good.Status.CompletedIndexes, "0-2")
	most := 0
	history.replay(ns, func(e podEvent, before map[string]*corev1.Pod) {
		running := 0
		for _, pod := range before {
			if alive(pod) && pod.DeletionTimestamp == nil {
				running++
			}
		}
		most = max(most, running)
	})
	ns.mustEqual("the most pods at a time", most, 2)

	bad := ns.endedJob("bad")
	ns.mustEqual("the bad job's failures", bad.Status.Failed, int32(2))
	for _, c := range bad.Status.Conditions {
		if c.Type == batchv1.JobFailed {
			ns.mustEqual("the reason of its failure", c.Reason, batchv1.JobReasonBackoffLimitExceeded)
		}
	}
}

// endedJob waits until a job is complete or has failed for good.
func (ns *namespace) endedJob(name string) *batchv1.Job {
	ns.Helper()
	var job *batchv1.Job
	ns.eventually("the end of job "+name, func() (err error) {
		job, err = ns.client.BatchV1().Jobs(ns.name).Get(ns.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range job.Status.Conditions {
			over := c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed
			if over && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("its status is %+v", job.Status)
	})
	return job
}

const cron = `
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        metadata:
          labels: {app: tick}
        spec:
          restartPolicy: Never
          containers:
          - name: main
            image: e2e.local/busybox:1
            command: [echo, tick]
`

func TestCronJob(t *testing.T) {
	ns := sharedNamespace(t)
	ns.apply(cron)
	ns.eventually("a job of the schedule", func() error {
		list, err := ns.client.BatchV1().Jobs(ns.name).List(ns.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, job := range list.Items {
			if job.Status.Succeeded == 1 {
				mustBeOwnedBy(t, &job, "CronJob", "tick")
				return nil
			}
		}
		return fmt.Errorf("none of %d jobs has succeeded", len(list.Items))
	})
	ns.kubectl("patch", "cronjob", "tick", "--patch", `{"spec":{"suspend":true}}`)
	ns.kubectl("create", "job", "now", "--from=cronjob/tick")
	ns.mustEqual("the output of a job made from it", ns.jobLogs("now"), "tick")
}

func (ns *namespace) jobLogs(name string) string {
	ns.Helper()
	ns.endedJob(name)
	return ns.logs("job/" + name)
}

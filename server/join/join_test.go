package join

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"brink/internal/wire/jointoken"
	"brink/server/token"
)

const (
	belongs = `node name "till-3" belongs to another machine: rename this one with hostnamectl set-hostname NAME, or give --node-name NAME or --with-node-id; if it is the same machine, set up anew: kubectl delete node till-3`
	joining = `node name "till-3" was taken a moment ago by another machine, which is joining: rename this one with hostnamectl set-hostname NAME, or give --node-name NAME or --with-node-id`
)

func TestNameBelongsToTheFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		first, thief := newMachine(t), newMachine(t)
		c.isApproved(c.asked(first.joining("till-3")))
		c.isRefused(c.asked(thief.joining("till-3")), ReasonNameTaken, joining)
		c.addNode("till-3")
		c.isBound("till-3")
		c.isRefused(c.asked(thief.joining("till-3")), ReasonNameTaken, belongs)
		c.isApproved(c.asked(first.joining("till-3"))) // reinstalled, while its node exists
		c.isApproved(c.asked(thief.joining("till-4"))) // a name of its own
	})
}

// Deleting the node frees its name, in whatever order that is heard of.
func TestDeletedNodeFreesItsName(t *testing.T) {
	t.Parallel()
	for _, heard := range []string{"before", "after"} {
		t.Run(heard, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				first, second := newMachine(t), newMachine(t)
				c.start()
				c.isApproved(c.asked(first.joining("till-3")))
				c.addNode("till-3")
				c.isBound("till-3")
				c.removeNode("till-3")
				if heard == "before" {
					c.eventually("the record goes", func() bool { return c.record("till-3") == nil })
				}
				c.isApproved(c.asked(second.joining("till-3")))
				c.isRefused(c.asked(first.joining("till-3")), ReasonNameTaken, joining)
				c.addNode("till-3")
				c.isBound("till-3")
				c.isRefused(c.asked(first.joining("till-3")), ReasonNameTaken, belongs)
			})
		})
	}
}

// One that joins again keeps its name, though the record of its deleted node is
// on its way out.
func TestRejoinAfterDeletion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		m := newMachine(t)
		for range 20 {
			c.isApproved(c.asked(m.joining("till-3")))
			c.addNode("till-3")
			c.isBound("till-3")
			c.removeNode("till-3")
		}
		c.isApproved(c.asked(m.joining("till-3")))
		c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, joining)
	})
}

func TestUnusedRecordGoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		first, second := newMachine(t), newMachine(t)
		c.isApproved(c.asked(first.joining("till-3")))
		time.Sleep(unusedAfter - time.Second)
		c.isRefused(c.asked(second.joining("till-3")), ReasonNameTaken, joining)
		c.isApproved(c.asked(first.joining("till-3"))) // its time begins again
		time.Sleep(unusedAfter - time.Second)
		c.isRefused(c.asked(second.joining("till-3")), ReasonNameTaken, joining)
		time.Sleep(time.Second)
		c.isApproved(c.asked(second.joining("till-3")))
	})
}

// A machine that imports its images for long keeps its name as long as it is there,
// and for a day from nobody else.
func TestSlowMachineKeepsItsName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.sources = map[string][]netip.Addr{"slow": {netip.MustParseAddr("192.0.2.1")}}
		controller := c.start()
		slow, silent := newMachine(t), newMachine(t)
		c.isApproved(c.asked(slow.joining("slow")))
		c.isApproved(c.asked(silent.joining("till-3")))
		time.Sleep(keptFor - time.Second)
		controller.queue.Add(task{kind: reconcileRecords})
		c.isRefused(c.asked(newMachine(t).joining("slow")), ReasonNameTaken, strings.ReplaceAll(joining, "till-3", "slow"))
		if c.record("till-3") == nil {
			t.Fatal("the record of a machine that takes long is gone")
		}
		c.addNode("till-3")
		c.isBound("till-3")
		c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, belongs)
	})
}

// What happened while no server ran is seen at the start.
func TestRecordsAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		put := func(name string, annotations map[string]string) {
			r := newRecord(name, claimant{"key", "key"})
			r.Annotations = annotations
			if _, err := c.CoreV1().Secrets(namespace).Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		put("deleted", map[string]string{nodeUID: "uid-of-old"})
		put("never-came", nil)
		put("registered", nil)
		put("imports", nil) // for longer than a day: its tunnel shows that it lives
		c.sources = map[string][]netip.Addr{"imports": {netip.MustParseAddr("192.0.2.1")}, "deleted": {netip.MustParseAddr("192.0.2.2")}}
		time.Sleep(keptFor)
		put("joins", nil)
		c.addNode("registered")
		c.start()
		c.isBound("registered")
		for _, gone := range []string{"deleted", "never-came"} {
			c.eventually(gone+" goes", func() bool { return c.record(gone) == nil })
		}
		for _, joining := range []string{"joins", "imports"} {
			if c.record(joining) == nil {
				t.Errorf("%s: the record of a machine that is joining is gone", joining)
			}
		}
	})
}

func TestNodeWithoutRecordIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.addNode("till-3")
		c.start()
		c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, belongs)
		c.isRefused(c.asked(newMachine(t).joining("own")), ReasonNameTaken, `node name "own" is that of the server: rename this one with hostnamectl set-hostname NAME, or give --node-name NAME or --with-node-id`)
		if c.record("till-3") != nil || c.record("own") != nil {
			t.Error("a refused machine has a record")
		}
	})
}

// The API server accepts a token for a moment after its end.
func TestTokenThatHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		deleted, expires, gone, theirs := jointoken.New(hash), jointoken.New(hash), jointoken.New(hash), jointoken.New(hash)
		c.addSecret(token.NewSecret(deleted, 0, ""))
		c.addSecret(token.NewSecret(expires, time.Hour, ""))
		c.addSecret(foreign(theirs, 0))
		if err := token.Delete(t.Context(), c, deleted.ID); err != nil {
			t.Fatal(err)
		}
		c.start()
		m := newMachine(t)
		by := func(joined jointoken.Token) *certificatesv1.CertificateSigningRequest {
			r := m.joining("till-3")
			r.Spec.Username = "system:bootstrap:" + joined.ID
			return r
		}
		c.isApproved(c.asked(by(expires)))
		time.Sleep(time.Hour + time.Second) // whole seconds are kept of the end
		for ended, state := range map[jointoken.Token]jointoken.State{
			deleted: jointoken.Deleted, expires: jointoken.Expired, gone: jointoken.Unknown, theirs: jointoken.Unknown,
		} {
			c.isRefused(c.asked(by(ended)), ReasonTokenEnded,
				fmt.Sprintf("token %s is %s: get another one with brink token create", ended.ID, state))
		}
	})
}

// Many machines come with one name at one moment.
func TestRaceForAName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		const machines = 20
		var approved atomic.Int32
		var all sync.WaitGroup
		requests := make([]*certificatesv1.CertificateSigningRequest, machines)
		for i := range requests {
			requests[i] = newMachine(t).joining("till-3")
		}
		for _, csr := range requests {
			all.Go(func() {
				if c.asked(csr).Type == certificatesv1.CertificateApproved {
					approved.Add(1)
				}
			})
		}
		all.Wait()
		if n := approved.Load(); n != 1 {
			t.Errorf("%d machines were approved for one name", n)
		}
	})
}

// Another server may be quicker at any moment: the record's creation decides.
func TestRaceBetweenServers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		var once sync.Once
		c.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			raced := false
			once.Do(func() {
				raced = true
				r := newRecord("till-3", claimant{"another machine's", "key"})
				r.CreationTimestamp = metav1.NewTime(time.Now())
				if err := c.Tracker().Add(r); err != nil {
					t.Error(err)
				}
			})
			if raced {
				return true, nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "secrets"}, "till-3")
			}
			return false, nil, nil
		})
		c.start()
		c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, joining)
	})
}

// Conflicts, a webhook that refuses for a while: the answer comes at last.
func TestTriesUntilItIsWritten(t *testing.T) {
	t.Parallel()
	for what, problem := range map[string]error{
		"conflict": apierrors.NewConflict(schema.GroupResource{}, "it", errors.New("changed")),
		"webhook":  apierrors.NewInternalError(errors.New("failed calling webhook")),
	} {
		for _, verb := range []string{"create secrets", "update certificatesigningrequests"} {
			t.Run(what+" "+verb, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c := newCluster(t)
					var tries atomic.Int32
					action, resource, _ := strings.Cut(verb, " ")
					c.PrependReactor(action, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
						return tries.Add(1) <= 3, nil, problem
					})
					c.start()
					c.isApproved(c.asked(newMachine(t).joining("till-3")))
				})
			})
		}
	}
}

// TestOneLineForAllNodes: a task about all nodes fails with the error of any of them.
func TestOneLineForAllNodes(t *testing.T) {
	t.Parallel()
	forbidden := func(node string) error {
		return fmt.Errorf("reconciling the record of node %s: %w", node, apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, node, errors.New("no")))
	}
	all := task{kind: reconcileRecords}
	if one, other := all.reportKey(forbidden("a")), all.reportKey(forbidden("b")); one != other {
		t.Errorf("%q is logged beside %q", one, other)
	}
	if one, other := all.reportKey(forbidden("a")), all.reportKey(apierrors.NewInternalError(errors.New("webhook"))); one == other {
		t.Error("another problem is not logged")
	}
	request := task{kind: decideRequest, name: "csr-1"}
	if one, other := request.reportKey(errors.New("webhook a")), request.reportKey(errors.New("webhook b")); one == other {
		t.Error("another problem of a request is not logged")
	}
}

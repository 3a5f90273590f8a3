package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/e2e/machine"
	"brink/internal/wire/clusterconfig"
)

// TestTokenJoins asks for certificates as machines do, with the real signers.
func TestTokenJoins(t *testing.T) {
	n := prepareNode(t, "disable-agent: true")
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	own := n.ownToken(t)
	first, thief := newJoiner(t, n, own), newJoiner(t, n, own)

	approved := first.joins("till-3")
	if len(approved.Status.Certificate) == 0 {
		t.Error("an approved machine has no certificate")
	}
	first.isDenied(thief.joins("till-3"), `node name "till-3" was taken a moment ago by another machine`)

	// The certificate makes it a node, which may read what it has to know.
	till3 := first.asNode(approved)
	first.registers(till3, "till-3", "192.0.2.3")
	mayReadItsOwn(t, till3)

	const belongs = `node name "till-3" belongs to another machine: rename this one with hostnamectl set-hostname NAME, or give --node-name NAME or --with-node-id; if it is the same machine, set up anew: kubectl delete node till-3`
	first.isDenied(thief.joins("till-3"), belongs)
	first.isApproved(first.joins("till-3"))
	first.isApproved(first.renews(till3, "till-3"))
	first.mayNotAsk(till3, "till-4") // by the API server itself

	first.isApproved(first.serves(till3, "till-3", "till-3", "192.0.2.3"))
	first.isDenied(first.serves(till3, "till-3", "till-4"), `the name "till-4" is not that of the node that asks, till-3`)

	if err := n.Client.CoreV1().Nodes().Delete(t.Context(), "till-3", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	first.isApproved(thief.joins("till-3"))
	first.isDenied(first.joins("till-3"), "was taken a moment ago")
	if log, err := os.ReadFile(n.LogFile("err", n.Starts)); err != nil || strings.Contains(string(log), own.Secret) || !strings.Contains(string(log), "token="+own.ID) {
		t.Errorf("the log has the token's secret, or not its id: %v\n%s", err, machine.Tail(filepath.Join(n.LogFile("err", n.Starts)), 4096))
	}
}

// mayReadItsOwn checks what the node till-3 may read: what it has to know, and no more.
func mayReadItsOwn(t *testing.T, till3 kubernetes.Interface) {
	t.Helper()
	config, err := till3.CoreV1().ConfigMaps(clusterconfig.Namespace).Get(t.Context(), clusterconfig.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := clusterconfig.Decode(config.Data[clusterconfig.Key]); err != nil || c.NetworkBackend != "vxlan" {
		t.Errorf("the cluster's settings are %+v, %v", c, err)
	}
	if _, err := till3.CoreV1().ConfigMaps(clusterconfig.Namespace).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node may list ConfigMaps: %v", err)
	}
	if _, err := till3.CoreV1().Secrets("kube-system").Get(t.Context(), "till-3.node-key.brink", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node may read the record of its name: %v", err)
	}
	if _, err := till3.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("a node's proxy may not list Services: %v", err)
	}
}

var errUndecided = errors.New("no answer yet")

func decided(csr *certificatesv1.CertificateSigningRequest) error {
	for _, c := range csr.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied || len(csr.Status.Certificate) > 0 {
			return nil
		}
	}
	return errUndecided
}

package noderecord

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/wire/nodekey"
	"brink/internal/wire/noderights"
)

func newMachine(t *testing.T) nodekey.Key {
	t.Helper()
	key, err := nodekey.Load(filepath.Join(t.TempDir(), "node-password"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signed is a certificate that was asked for so long ago.
func signed(key string, ago time.Duration) *x509.Certificate {
	c := certificate(key)
	c.Raw, c.NotBefore = []byte("the certificate of "+key), time.Now().Add(-ago-5*time.Minute)
	return c
}

// TestProof: a record that was restored has lost the keys of its machine's later
// certificates. That machine gets in by its proof, and nobody else.
func TestProof(t *testing.T) {
	t.Parallel()
	machine, other := newMachine(t), newMachine(t)
	renewed, given, before := signed("renewed", 0), signed("given", time.Hour), signed("before", 2*time.Hour)
	record := func(uid string, keySince time.Duration) *corev1.Secret {
		r := theRecord(uid, given)
		r.Data[MachineKey] = []byte(machine.Public())
		r.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
		if keySince > 0 {
			SetKeySince(r, time.Now().Add(-keySince))
		}
		return r
	}
	old := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: OldRenewals}}
	prove := func(key nodekey.Key, c *x509.Certificate) string { return key.ProveCertificate(c.Raw) }
	for name, tc := range map[string]proofCase{
		"renewed since":                      {[]any{theNode("1"), record("1", 30*time.Minute)}, renewed, prove(machine, renewed), 200, ""},
		"renewed since it was given":         {[]any{theNode("1"), record("1", 0)}, renewed, prove(machine, renewed), 200, ""},
		"while an older brink is taken over": {[]any{old, theNode("1"), record("1", 0)}, renewed, prove(machine, renewed), 200, ""},
		"without a proof":                    {[]any{theNode("1"), record("1", 0)}, renewed, "", 401, noderights.Replaced},
		"damaged":                            {[]any{theNode("1"), record("1", 0)}, renewed, "AAAA", 401, noderights.Replaced},
		"another machine":                    {[]any{theNode("1"), record("1", 0)}, renewed, prove(other, renewed), 401, noderights.Replaced},
		"for another certificate":            {[]any{theNode("1"), record("1", 0)}, renewed, prove(machine, given), 401, noderights.Replaced},
		"for a request":                      {[]any{theNode("1"), record("1", 0)}, renewed, machine.Prove(renewed.Raw), 401, noderights.Replaced},
		"before it joined again":             {[]any{theNode("1"), record("1", 30*time.Minute)}, signed("x", time.Hour), prove(machine, signed("x", time.Hour)), 401, noderights.Replaced},
		"before the record":                  {[]any{theNode("1"), record("1", 0)}, before, prove(machine, before), 401, noderights.Replaced},
		"the Node is gone":                   {[]any{record("1", 0)}, renewed, prove(machine, renewed), 401, noderights.Deleted},
		"the Node is another":                {[]any{theNode("2"), record("1", 0)}, renewed, prove(machine, renewed), 401, noderights.Deleted},
		"the record is gone":                 {[]any{theNode("1")}, renewed, prove(machine, renewed), 401, noderights.Deleted},
		"the record was never bound":         {[]any{theNode("1"), record("", 0)}, renewed, prove(machine, renewed), 401, noderights.Replaced},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.check(t)
		})
	}
}

// proofCase is a request with a proof, and the answer to it in a cluster with some objects.
type proofCase struct {
	has    []any
	asks   *x509.Certificate
	proof  string
	status int
	why    string
}

func (tc proofCase) check(t *testing.T) {
	a := newAPI(t)
	var proven []Proven
	a.gate.ProvenBy(func(p Proven) { proven = append(proven, p) })
	a.make(tc.has...)
	a.start()
	r := a.request(t.Context(), tc.asks, "/")
	r.Header.Set(noderights.Proof, tc.proof)
	w := httptest.NewRecorder()
	a.served.ServeHTTP(w, r)
	if why := w.Header().Get(noderights.Header); w.Code != tc.status || why != tc.why {
		t.Errorf("%d %q, want %d %q", w.Code, why, tc.status, tc.why)
	}
	if r.Header.Get(noderights.Proof) != "" {
		t.Error("the proof is passed on")
	}
	var want []Proven
	if tc.status == http.StatusOK {
		want = []Proven{{Node: "till", Record: "record", Key: KeyOf(tc.asks.RawSubjectPublicKeyInfo), NotBefore: tc.asks.NotBefore.Unix()}}
	}
	if !slices.Equal(proven, want) {
		t.Errorf("proven are %v, want %v", proven, want)
	}
}

package noderecord

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"brink/internal/wire/nodekey"
)

// Proven is a certificate whose key its machine's record has lost. It is comparable.
type Proven struct {
	Node      string
	Record    string // its uid
	Key       string
	NotBefore int64 // of the certificate, seconds since 1970
}

// Belongs tells that the record, and the Node as it is now, are those for which it was
// proven.
func (p Proven) Belongs(record *corev1.Secret, node *corev1.Node) bool {
	return string(record.UID) == p.Record && isAlive(record, node) && isNewest(time.Unix(p.NotBefore, 0), record)
}

// isAlive is InForce for a record that was bound. One that was not may be that of a
// name that was given anew.
func isAlive(record *corev1.Secret, node *corev1.Node) bool {
	return record.Annotations[NodeUID] != "" && InForce(record, node)
}

// isNewest tells that a certificate was signed after all whose keys were written into
// a record.
func isNewest(notBefore time.Time, record *corev1.Secret) bool {
	since, err := time.Parse(time.RFC3339, record.Annotations[KeySince])
	if err != nil {
		return isNotOlder(notBefore, record)
	}
	return !notBefore.Add(backdate).Before(since)
}

// isProven tells that a certificate is one of the machine that a record names, whose
// key the record has lost, and has it written down.
func (g *Gate) isProven(a *asking, record *corev1.Secret, node *corev1.Node) bool {
	if a.proof == "" || !isAlive(record, node) || !isNewest(a.cert.NotBefore, record) {
		return false
	}
	machine, err := nodekey.VerifyCertificate(a.proof, a.cert.Raw)
	if err != nil || !machine.Is(nodekey.Public(record.Data[MachineKey])) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proven != nil {
		g.proven(Proven{Node: a.node, Record: string(record.UID), Key: a.key, NotBefore: a.cert.NotBefore.Unix()})
	}
	return true
}

// ProvenBy has proven called for each certificate that is believed by its machine's
// proof, until the record has its key. It must not wait.
func (g *Gate) ProvenBy(proven func(Proven)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proven = proven
}

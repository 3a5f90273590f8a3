package noderecord

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"brink/internal/wire/nodekey"
)

// Proven is a certificate that its machine has proved to be its own, and whose key the
// machine's record has lost. It is comparable.
type Proven struct {
	Node      string
	Record    string // its uid
	Key       string
	NotBefore int64 // of the certificate, seconds since 1970
}

// Belongs reports whether the certificate was proved for this record and for the Node as it
// is now.
func (p Proven) Belongs(record *corev1.Secret, node *corev1.Node) bool {
	return string(record.UID) == p.Record && isAlive(record, node) && isAfterAllKeys(time.Unix(p.NotBefore, 0), record)
}

// isAlive reports whether the Node exists that a record was bound to. Unlike InForce it is
// false for a record that was bound to none: its name may have been given anew.
func isAlive(record *corev1.Secret, node *corev1.Node) bool {
	return record.Annotations[NodeUID] != "" && InForce(record, node)
}

// isAfterAllKeys reports whether a certificate was signed after all keys of a record were
// written.
func isAfterAllKeys(notBefore time.Time, record *corev1.Secret) bool {
	since, err := time.Parse(time.RFC3339, record.Annotations[KeySince])
	if err != nil {
		return isNotOlder(notBefore, record)
	}
	return !notBefore.Add(backdate).Before(since)
}

// isProven reports whether the request proves that its certificate belongs to the machine
// that the record names, and passes it on to have its key written into the record.
func (g *Gate) isProven(request *nodeRequest, record *corev1.Secret, node *corev1.Node) bool {
	if request.proof == "" || !isAlive(record, node) || !isAfterAllKeys(request.cert.NotBefore, record) {
		return false
	}
	machine, err := nodekey.VerifyCertificate(request.proof, request.cert.Raw)
	if err != nil || !machine.Is(nodekey.Public(record.Data[MachineKey])) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.proven != nil {
		g.proven(Proven{Node: request.node, Record: string(record.UID), Key: request.key, NotBefore: request.cert.NotBefore.Unix()})
	}
	return true
}

// ProvenBy has proven called for each certificate that is accepted by its machine's proof,
// until the record has its key. proven must not block.
func (g *Gate) ProvenBy(proven func(Proven)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proven = proven
}

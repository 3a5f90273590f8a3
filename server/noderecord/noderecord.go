// Package noderecord makes a node's certificate worth what the node's record says, and
// worthless when the record is gone: it has the form of records, and the Gate that judges
// each request of a node by them.
//
// Kubernetes cannot revoke certificates: whoever has one of system:node:NAME is the node
// until it ends, and renews it before. A machine that was taken out of the cluster could
// read the Secrets of the next machine of its name. So a certificate is bound to a record:
// the Secret NAME.node-key.brink in kube-system, which says which machine a name belongs
// to, for which Node, and by which certificates' keys it may speak. server/join writes
// records, when a machine joins and at each renewal; no node can write one.
//
// Decisions:
//   - The record has the hash of a certificate's public key and not of the certificate:
//     the key is known before the certificate is signed, so it is written down before the
//     certificate is worth anything. Keys are new at each renewal. A generation in the
//     certificate itself would have to be asked for by agents, and older agents would stop
//     working.
//   - A record is in force while the Node exists that it was bound to, by the Node's uid.
//     So kubectl delete node ends all rights at the moment when this server hears of it,
//     whatever becomes of the Secret, and they stay ended after a restart. A new Node of
//     the same name needs a new record.
//   - Running requests end too: a watch would go on for half an hour. The gate knows the
//     requests of nodes while they run and cancels those that lose their rights.
//   - Requests are looked up in the informers' caches, which costs two map lookups and a
//     SHA-256 of 91 bytes. Until these caches are complete nodes wait, which also keeps
//     them from being refused by RBAC roles that this server has not read yet.
//   - The API server writes into a certificate request who made it (the user's "extra"):
//     the record and the key. A request that was made before a node was deleted, and is
//     decided after another machine took the name, is not the new machine's.
//   - Records of a brink older than this package have no keys, or outdated ones, and nodes
//     that registered again after a deletion have no record. The first certificate that is
//     shown is taken for such a node's own, if it was signed after the record was made;
//     its key is then written into the record. OldRenewals, which an older brink makes at
//     each start, tells that one has run.
//   - A restored database has the records of its time, without the keys of agents that
//     have renewed their certificate or joined again since. With each request, agents prove
//     by their node password whose their certificate is (noderights.Proof). A certificate
//     of the machine that the record names is accepted, and its key written into the
//     record, while the Node exists that the record was bound to, and if the certificate
//     is newer than all keys in the record. So this restores no rights to a machine that
//     was removed, nor to certificates that were given up by joining again.
//
// Given up: certificates that live for minutes. A node that is offline for a night would
// not be a node in the morning.
package noderecord

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Namespace is where records are.
	Namespace = metav1.NamespaceSystem
	// Suffix follows the node's name in the name of its record.
	Suffix = ".node-key.brink"
	// Type of a record. A record is a Secret because clusters guard who may write
	// Secrets, and a record decides who owns a node's name. What it holds is public.
	Type = corev1.SecretType("brink.io/node-key")
	// MachineKey is the entry with the machine's public key, see nodekey.
	MachineKey = "public-key"
	// NodeUID is the annotation with the uid of the Node that a record is bound to. It is
	// missing until there is a Node.
	NodeUID = "brink.io/node-uid"
	// Adopted is the annotation of a record that was made for a node of an older brink
	// without a record: the node's certificate is older than the record.
	Adopted = "brink.io/adopted"

	// KeySince is the annotation with the time when the newest key was written, RFC 3339.
	// Without it, that was when the record was made.
	KeySince = "brink.io/key-since"

	// certificateKeys is the entry with the hashes of the certificates' public keys, one
	// a line, the newest last.
	certificateKeys = "certificate-keys"
	// maxKeys is how many keys a record keeps beside that of the certificate in use. An
	// agent that gets no answer asks again with another key. And a tunnel lives as long as
	// the key by which it was opened: a stream in it shall outlive many renewals, also of
	// certificates that live for minutes.
	maxKeys = 16

	// OldRenewals is the ClusterRoleBinding by which upstream's csrapproving approved
	// renewals in a cluster of an older brink, without updating records.
	OldRenewals = "brink:node-renewal"
)

// Keys of a user's extra values, which the API server copies into certificate requests.
const (
	// ExtraRecord is the uid of the record by which a node has its rights.
	ExtraRecord = "brink.io/node-record"
	// ExtraKey is the key of the node's certificate.
	ExtraKey = "brink.io/node-certificate-key"
)

// KeyOf returns the hash of a public key, given as the DER of a SubjectPublicKeyInfo.
func KeyOf(subjectPublicKeyInfo []byte) string {
	sum := sha256.Sum256(subjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// HasKey reports whether a certificate with this key was given for the record.
func HasKey(record *corev1.Secret, key string) bool {
	for line := range bytes.SplitSeq(record.Data[certificateKeys], []byte("\n")) {
		if string(line) == key && key != "" {
			return true
		}
	}
	return false
}

// HasKeys reports whether a record has any key. That of an older brink has none.
func HasKeys(record *corev1.Secret) bool { return len(record.Data[certificateKeys]) > 0 }

// SetKeys replaces the keys of a record. A record without keys adopts the next one that is
// shown.
func SetKeys(record *corev1.Secret, keys ...string) {
	if record.Data == nil {
		record.Data = map[string][]byte{}
	}
	if len(keys) == 0 {
		delete(record.Annotations, KeySince)
	}
	record.Data[certificateKeys] = []byte(strings.Join(keys, "\n"))
}

// SetKeySince records when a key was written whose certificate is about to be signed.
func SetKeySince(record *corev1.Secret, now time.Time) {
	metav1.SetMetaDataAnnotation(&record.ObjectMeta, KeySince, now.UTC().Format(time.RFC3339))
}

// AddKey adds the key of a node's next certificate. The present one, by which the node
// asked, stays even when older keys have to go. The two are the same when the record had
// lost the present one.
func AddKey(record *corev1.Secret, present, next string) {
	all := strings.Fields(string(record.Data[certificateKeys]))
	others := slices.DeleteFunc(all, func(k string) bool { return k == present || k == next })
	others = others[max(0, len(others)-maxKeys):]
	if present != next {
		others = append(others, present)
	}
	SetKeys(record, append(others, next)...)
}

// InForce reports whether a record is bound to this Node, or to none yet. node is nil when
// there is no Node of the name.
func InForce(record *corev1.Secret, node *corev1.Node) bool {
	uid := record.Annotations[NodeUID]
	return uid == "" || node != nil && string(node.UID) == uid
}

// isNotOlder reports whether a certificate that is valid from notBefore can have been given
// for a record without keys. Certificates are backdated by five minutes (csrsigning).
func isNotOlder(notBefore time.Time, record *corev1.Secret) bool {
	return record.Annotations[Adopted] != "" || !notBefore.Add(backdate).Before(record.CreationTimestamp.Time)
}

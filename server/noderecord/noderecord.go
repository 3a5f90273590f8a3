// Package noderecord lets a node's certificate be worth what the record is that it
// was given for, and nothing when that is gone.
//
// Kubernetes cannot revoke certificates: whoever has one of system:node:NAME is the
// node until it ends, and renews it before. A machine that was taken out of the
// cluster would read the Secrets of the next one of its name. So a certificate is
// bound to a record: the Secret NAME.node-key.brink in kube-system, which says which
// machine a name belongs to, for which Node, and by which keys of certificates it
// may speak. server/join writes records, at joining and at each renewal; no node can.
// Gate compares each request with them.
//
// Decisions:
//   - The record has the hash of a certificate's public key, not of the certificate:
//     that is known before it is signed, so it is written down before it is worth
//     anything. Keys are new at each renewal. A generation in the certificate itself
//     would need agents to ask for it, and those of before would stop working.
//   - A record is in force while the Node lives that it was bound to, by its uid. So
//     kubectl delete node ends all rights at the moment in which this server hears of
//     it, whatever becomes of the Secret, and they stay ended after a restart. A
//     Node that is made anew under the name needs a new record.
//   - What is running ends too: a watch would go on for half an hour. The requests of
//     nodes are known while they run, and those without rights are cancelled.
//   - Requests are looked up in the informers' caches, which cost two map lookups and
//     a SHA-256 of 91 bytes. Until these caches are complete nodes wait, which also
//     keeps them from being refused by roles that this server has not read yet.
//   - Who made a certificate request is written into it by the API server (its
//     user's "extra"): the record and the key. A request that was made before a node
//     was deleted and is decided on after its successor has joined is none of the
//     successor's.
//   - Records of a brink before this package have no keys, or those of before it ran,
//     and nodes that had registered again after a deletion have no record. The first
//     certificate that is shown is taken for such a node's own, if it was signed
//     after the record was made; its key is then the record's. That an older brink
//     has run is known by OldRenewals, which it makes at each start.
//   - A database that was restored has records of then: of an agent that has renewed
//     its certificate or joined again since they have no key. Agents say with each
//     request by their node password whose their certificate is (noderights.Proof).
//     That of the machine that the record names counts, and gets its key into the
//     record, while the Node lives that the record was bound to and if it is newer
//     than all that the record knows of. So it gives nothing back to a machine that
//     was removed, nor to certificates that were given up by joining again.
//
// Given up: certificates of a few minutes. A node that is offline for a night would
// be none in the morning.
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
	// Type of a record. It is a Secret, so that not everyone who may read ConfigMaps
	// may change who owns a node's name where only Secrets are guarded. What it holds
	// is public.
	Type = corev1.SecretType("brink.io/node-key")
	// MachineKey is the entry with the public key of the machine, see nodekey.
	MachineKey = "public-key"
	// NodeUID is the annotation with the uid of the Node that a record is for,
	// missing until there is one.
	NodeUID = "brink.io/node-uid"
	// Adopted is the annotation of a record that was made for a node of an older
	// brink, which had none: its certificates are older than it.
	Adopted = "brink.io/adopted"

	// KeySince is the annotation with when the newest key was written down, RFC 3339;
	// missing, it was when the record was made.
	KeySince = "brink.io/key-since"

	// certificateKeys is the entry with the hashes of certificates' public keys, a
	// line each, the newest last.
	certificateKeys = "certificate-keys"
	// maxKeys is how many keys a record has beside that of who has asked: an agent
	// that does not get its answer asks again with another key.
	maxKeys = 4

	// OldRenewals is the ClusterRoleBinding by which upstream's csrapproving approved
	// renewals for an older brink, without a word to anybody's record.
	OldRenewals = "brink:node-renewal"
)

// Keys of a user's extra, which the API server copies into certificate requests.
const (
	// ExtraRecord is the uid of the record by which a node has spoken.
	ExtraRecord = "brink.io/node-record"
	// ExtraKey is the key of its certificate.
	ExtraKey = "brink.io/node-certificate-key"
)

// KeyOf is the hash of a public key, DER of a SubjectPublicKeyInfo.
func KeyOf(subjectPublicKeyInfo []byte) string {
	sum := sha256.Sum256(subjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// HasKey tells that a certificate with this key was given for the record.
func HasKey(record *corev1.Secret, key string) bool {
	for line := range bytes.SplitSeq(record.Data[certificateKeys], []byte("\n")) {
		if string(line) == key && key != "" {
			return true
		}
	}
	return false
}

// HasKeys is false for a record of an older brink.
func HasKeys(record *corev1.Secret) bool { return len(record.Data[certificateKeys]) > 0 }

// SetKeys leaves a record these keys and no others; with none it adopts the next.
func SetKeys(record *corev1.Secret, keys ...string) {
	if record.Data == nil {
		record.Data = map[string][]byte{}
	}
	if len(keys) == 0 {
		delete(record.Annotations, KeySince)
	}
	record.Data[certificateKeys] = []byte(strings.Join(keys, "\n"))
}

// SetKeySince notes when a key was written down whose certificate is about to be
// signed.
func SetKeySince(record *corev1.Secret, now time.Time) {
	metav1.SetMetaDataAnnotation(&record.ObjectMeta, KeySince, now.UTC().Format(time.RFC3339))
}

// AddKey adds the key of the next certificate of whoever has asked by its present
// one, which stays whatever has to go. The two are the same for a key that is lost.
func AddKey(record *corev1.Secret, present, next string) {
	all := strings.Fields(string(record.Data[certificateKeys]))
	others := slices.DeleteFunc(all, func(k string) bool { return k == present || k == next })
	others = others[max(0, len(others)-maxKeys):]
	if present != next {
		others = append(others, present)
	}
	SetKeys(record, append(others, next)...)
}

// InForce tells that a record is still that of its node, nil where there is none:
// the Node lives that it was bound to, or there was none yet.
func InForce(record *corev1.Secret, node *corev1.Node) bool {
	uid := record.Annotations[NodeUID]
	return uid == "" || node != nil && string(node.UID) == uid
}

// isNotOlder tells that a certificate of that beginning can have been given for a record without
// keys. Certificates are backdated by five minutes (csrsigning).
func isNotOlder(notBefore time.Time, record *corev1.Secret) bool {
	return record.Annotations[Adopted] != "" || !notBefore.Add(backdate).Before(record.CreationTimestamp.Time)
}

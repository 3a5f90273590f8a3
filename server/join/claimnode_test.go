package join

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"brink/internal/wire/nodekey"
)

// TestANodeThatLostItsRecord belongs to the machine that its annotation names. A Node without
// the annotation belongs to no machine that claims it.
func TestANodeThatLostItsRecord(t *testing.T) {
	t.Parallel()
	const machine, thief = nodekey.Public("machine"), nodekey.Public("thief")
	for _, tc := range []struct {
		name string
		says string
		asks nodekey.Public
		want owner
	}{
		{"its machine", string(machine), machine, ownerSame},
		{"another machine", string(machine), thief, ownerOther},
		{"a server's own", "", machine, ownerOther},
		{"a server's own, asked for by nobody", "", "", ownerOther},
	} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "till", UID: "1"}}
		if tc.says != "" {
			node.Annotations = map[string]string{nodekey.NodeAnnotation: tc.says}
		}
		c := &Controller{cfg: Config{Client: fake.NewClientset(node)}}
		for range 2 { // the second time by the record
			got, err := c.claim(t.Context(), "till", claimant{tc.asks, "key"})
			if err != nil || got != tc.want {
				t.Errorf("%s: %v, %v, want %v", tc.name, got, err, tc.want)
			}
		}
		_, err := c.cfg.Client.CoreV1().Secrets(namespace).Get(t.Context(), "till"+recordSuffix, metav1.GetOptions{})
		if hasRecord := err == nil; hasRecord != (tc.want == ownerSame) {
			t.Errorf("%s: there is a record: %t", tc.name, hasRecord)
		}
	}
}

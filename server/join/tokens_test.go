package join

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/wire/jointoken"
	"brink/server/token"
)

var hash = strings.Repeat("0", 64)

func (c *cluster) addSecret(s *corev1.Secret) {
	c.t.Helper()
	if _, err := c.CoreV1().Secrets(s.Namespace).Create(c.t.Context(), s, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) has(joined jointoken.Token) bool {
	_, err := c.CoreV1().Secrets(namespace).Get(c.t.Context(), "bootstrap-token-"+joined.ID, metav1.GetOptions{})
	return err == nil
}

// foreign is a bootstrap token as kubeadm makes it.
func foreign(t jointoken.Token, ttl time.Duration) *corev1.Secret {
	s := token.NewSecret(t, ttl, "kubeadm's")
	s.Data["auth-extra-groups"] = []byte("system:bootstrappers:kubeadm:default-node-token")
	return s
}

func TestTokensAreKeptAWeek(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		short, forever, theirs, damaged := jointoken.New(hash), jointoken.New(hash), jointoken.New(hash), jointoken.New(hash)
		c.addSecret(token.NewSecret(short, time.Hour, ""))
		c.addSecret(token.NewSecret(forever, 0, ""))
		c.addSecret(foreign(theirs, time.Hour))
		broken := token.NewSecret(damaged, time.Hour, "")
		broken.Data["expiration"] = []byte("soon")
		c.addSecret(broken)
		controller := c.start()
		look := func() { controller.queue.Add(task{kind: removeTokens}) }

		c.eventually("what never was valid goes", func() bool { return !c.has(damaged) })
		if !c.has(theirs) {
			t.Error("a token went that had not expired")
		}
		time.Sleep(time.Hour + time.Second) // whole seconds are kept of the end
		look()
		c.eventually("another group's token goes", func() bool { return !c.has(theirs) })
		if !c.has(short) {
			t.Error("an expired token was forgotten at once")
		}
		time.Sleep(7 * 24 * time.Hour)
		look()
		c.eventually("the expired token goes", func() bool { return !c.has(short) })
		if !c.has(forever) {
			t.Error("a token went that does not expire")
		}
	})
}

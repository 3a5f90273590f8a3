package join

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"brink/internal/wire/jointoken"
	"brink/internal/wire/noderights"
)

func answer(status int, why string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}}
	if why != "" {
		resp.Header.Set(noderights.Header, why)
	}
	return resp
}

// TestRefusal: one line when it begins, one request a minute while it lasts.
func TestRefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told []string
		r := &refusal{}
		r.onRefusal(func(why string) { told = append(told, why) })
		for _, resp := range []*http.Response{answer(200, ""), answer(401, ""), answer(403, ""), answer(500, noderights.Deleted)} {
			if r.note(resp); r.reason() != "" || r.hold(t.Context()) != nil {
				t.Fatalf("refused by %d %v", resp.StatusCode, resp.Header)
			}
		}
		r.note(answer(401, noderights.Deleted))
		r.note(answer(401, noderights.Deleted))
		r.note(answer(401, "")) // by somebody in between
		if len(told) != 1 || told[0] != noderights.Deleted || r.reason() != noderights.Deleted {
			t.Errorf("told %v, it is %q", told, r.reason())
		}
		ended, cancel := context.WithTimeout(t.Context(), holdFor/2)
		defer cancel()
		if err := r.hold(ended); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a request in vain: %v", err)
		}
		time.Sleep(askAgain)
		if err := r.hold(t.Context()); err != nil {
			t.Errorf("after a minute none is let through: %v", err)
		}
		if err := r.hold(t.Context()); !errors.Is(err, errRefused) {
			t.Errorf("one after it, that waited for long: %v", err)
		}
		held := make(chan error)
		go func() { held <- r.hold(t.Context()) }()
		synctest.Wait()
		r.note(answer(404, ""))
		if err := <-held; err != nil {
			t.Errorf("one that waited: %v", err)
		}
		if err := r.hold(t.Context()); err != nil || r.reason() != "" {
			t.Errorf("accepted again, but %v, %q", err, r.reason())
		}
		if r.note(answer(401, noderights.Deleted)); len(told) != 2 {
			t.Errorf("told %v", told)
		}
	})
}

// TestToldLater: what was refused before the node runs is told when it does.
func TestToldLater(t *testing.T) {
	t.Parallel()
	r := &refusal{}
	r.note(answer(401, noderights.Replaced))
	told := ""
	r.onRefusal(func(why string) { told = why })
	if told != noderights.Replaced {
		t.Errorf("told %q", told)
	}
}

func TestRefusedText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		token *jointoken.Token
		why   string
		want  []string
	}{
		{nil, noderights.Deleted, []string{"node till was deleted from the cluster: ", "brink token create", "--token-file"}},
		{&jointoken.Token{}, noderights.Deleted, []string{"node till was deleted from the cluster: restart brink"}},
		{nil, noderights.Replaced, []string{"another machine", "brink token create"}},
	} {
		j := &Join{cfg: Config{NodeName: "till", Token: tc.token}, refusal: &refusal{}}
		if err := j.Refused(); err != nil {
			t.Errorf("refused without a word: %v", err)
		}
		j.refusal.note(answer(401, tc.why))
		for _, want := range tc.want {
			if err := j.Refused(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		}
	}
}

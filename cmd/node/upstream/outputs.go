package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// outputs leaves out of Kubernetes' lines what containers print and what is sent to
// them. The kubelet logs both of each probe at the level of --debug, and a probe such
// as `env`, or one with a header Authorization, puts a Secret there: into a journal
// that more people may read than the Secret.
type outputs struct{ slog.Handler }

// Attributes and events of upstream's kubelet (v1.36) that carry such text:
// pkg/kubelet/prober/prober.go, pkg/kubelet/lifecycle/handlers.go.
var (
	outputKeys   = []string{"output", "headers"}
	outputEvents = []string{"Unhealthy", "ProbeWarning", "FailedPostStartHook", "FailedPreStopHook"}
)

// outputTexts are how lines begin, and where in them the text is (pkg/probe).
var outputTexts = []struct{ begin, mark string }{
	{"Exec probe response", ": "},
	{"Probe succeeded for ", ", Response: "},
	{"Probe terminated redirects for ", ", Response: "},
	{"Non fatal body truncation for ", ", Response: "},
	{"Probe failed for ", " with request headers "},
}

func (h outputs) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, withoutOutput(r.Message), r.PC)
	hides := strings.HasPrefix(r.Message, "Exec lifecycle hook")
	r.Attrs(func(a slog.Attr) bool {
		hides = hides || a.Key == "reason" && slices.Contains(outputEvents, a.Value.String())
		return true
	})
	r.Attrs(func(a slog.Attr) bool {
		if slices.Contains(outputKeys, a.Key) || hides && a.Key == "message" {
			a.Value = slog.StringValue(hidden(a.Value.String()))
		}
		out.AddAttrs(a)
		return true
	})
	return h.Handler.Handle(ctx, out)
}

func (h outputs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return outputs{h.Handler.WithAttrs(attrs)}
}

func (h outputs) WithGroup(name string) slog.Handler { return outputs{h.Handler.WithGroup(name)} }

func withoutOutput(message string) string {
	for _, text := range outputTexts {
		if !strings.HasPrefix(message, text.begin) {
			continue
		}
		if before, after, found := strings.Cut(message, text.mark); found {
			return before + text.mark + hidden(after)
		}
	}
	return message
}

func hidden(text string) string { return fmt.Sprintf("(%d bytes)", len(text)) }

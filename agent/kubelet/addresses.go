package kubelet

import (
	"slices"
	"strings"

	"github.com/go-logr/logr"

	"brink/internal/commas"
	"brink/internal/componentargs"
)

// OwnsAddresses reports whether the agent, not the kubelet, writes the node's addresses.
// The kubelet takes one address a family from a flag for as long as it runs and knows no
// external ones, but leaves the addresses in the Node alone when there is a cloud
// provider. A user who has such a provider sets the flag cloud-provider, and then the
// provider writes them.
func OwnsAddresses(args []string) bool {
	return !slices.ContainsFunc(args, func(arg string) bool { return componentargs.Name(arg) == "cloud-provider" })
}

// addressFlags tells the kubelet which family of pods' addresses comes first, which needs
// no flag where that is IPv4. For IPv6 there is the address "::", which means the family
// alone, but then the kubelet asks the name servers for the node's name and waits
// for those that do not answer. So it gets the present addresses, although they may
// change; see movedSink.
func addressFlags(cfg Config) []string {
	switch {
	case !OwnsAddresses(cfg.Args):
		return []string{"node-ip=" + commas.Join(cfg.NodeIPs)}
	case cfg.Offline, len(cfg.NodeIPs) > 0 && cfg.NodeIPs[0].Is6():
		// Without a Node static pods in the host's network have no address.
		return []string{"cloud-provider=external", "node-ip=" + commas.Join(cfg.NodeIPs)}
	}
	return []string{"cloud-provider=external"}
}

// What upstream logs with each heartbeat of a node that no longer has the addresses of its
// flag. A test notices when the texts change.
const (
	statusFailed = "Failed to set some node status fields"
	addressGone  = "failed to validate nodeIP"
	secondGone   = "failed to validate secondaryNodeIP"
)

// movedSink drops the line that the node has other addresses than at the start: the agent
// has written them into the Node, and the kubelet leaves those alone. The sink is one more
// call on the way to the log and corrects the call depth: the lines in which Kubernetes
// gives the reason for ending the process are recognized by their function.
type movedSink struct{ logr.LogSink }

var _ logr.CallDepthLogSink = movedSink{}

// called returns the sink for a call from a method of movedSink.
func (s movedSink) called() logr.LogSink {
	if deep, ok := s.LogSink.(logr.CallDepthLogSink); ok {
		return deep.WithCallDepth(1)
	}
	return s.LogSink
}

func (s movedSink) Info(level int, msg string, keysAndValues ...any) {
	s.called().Info(level, msg, keysAndValues...)
}

func (s movedSink) Error(err error, msg string, keysAndValues ...any) {
	if msg == statusFailed && err != nil && (strings.HasPrefix(err.Error(), addressGone) || strings.HasPrefix(err.Error(), secondGone)) {
		return
	}
	s.called().Error(err, msg, keysAndValues...)
}

// WithCallDepth implements logr.CallDepthLogSink.
func (s movedSink) WithCallDepth(depth int) logr.LogSink {
	if deep, ok := s.LogSink.(logr.CallDepthLogSink); ok {
		return movedSink{deep.WithCallDepth(depth)}
	}
	return s
}

func (s movedSink) WithValues(keysAndValues ...any) logr.LogSink {
	return movedSink{s.LogSink.WithValues(keysAndValues...)}
}

func (s movedSink) WithName(name string) logr.LogSink { return movedSink{s.LogSink.WithName(name)} }

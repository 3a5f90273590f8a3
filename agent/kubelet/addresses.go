package kubelet

import (
	"slices"
	"strings"

	"github.com/go-logr/logr"

	"brink/internal/componentargs"
)

// OwnsAddresses tells that the agent, not the kubelet, says where the node is.
// The kubelet takes one address a family from a flag for as long as it runs and
// knows of no external ones; to one of a node with a cloud provider the addresses
// in the Node come first. A user who has such a provider says so by this flag,
// and then it is the provider's.
func OwnsAddresses(args []string) bool {
	return !slices.ContainsFunc(args, func(arg string) bool { return componentargs.Name(arg) == "cloud-provider" })
}

// addressFlags say to the kubelet of which family pods' addresses come first, and no
// more where that is IPv4. For IPv6 there is the address "::", which says the family
// alone, but then the kubelet asks the name servers for the node's name and waits
// for those that do not answer. So it gets the addresses of now, although the node may
// move; see movedSink.
func addressFlags(cfg Config) []string {
	switch {
	case !OwnsAddresses(cfg.Args):
		return []string{"node-ip=" + joinAddrs(cfg.NodeIPs)}
	case cfg.Offline, len(cfg.NodeIPs) > 0 && cfg.NodeIPs[0].Is6():
		// Without a Node static pods in the host's network have no address.
		return []string{"cloud-provider=external", "node-ip=" + joinAddrs(cfg.NodeIPs)}
	}
	return []string{"cloud-provider=external"}
}

// What upstream logs with each heartbeat of a node that has left the addresses of its
// flag. A test notices when it changes.
const (
	statusFailed = "Failed to set some node status fields"
	addressGone  = "failed to validate nodeIP"
	secondGone   = "failed to validate secondaryNodeIP"
)

// movedSink leaves out that the node has other addresses than at the start: the agent
// has told the Node, whose addresses the kubelet then leaves alone. It is one call more
// on the way to the log, and says so: lines in which Kubernetes tells why it ends the
// process are known by the function that they come from.
type movedSink struct{ logr.LogSink }

var _ logr.CallDepthLogSink = movedSink{}

// called is the sink for a call from a method of movedSink.
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

// WithCallDepth is that of logr.CallDepthLogSink.
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

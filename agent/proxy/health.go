package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	"k8s.io/kubernetes/pkg/proxy/metrics"
)

const (
	// pollInterval is how often it is checked whether rules are written.
	pollInterval = 50 * time.Millisecond
	// retryInterval is how long after the first attempt failed it is repeated.
	// Upstream waits for a change of a Service, or an hour.
	retryInterval = 5 * time.Second
	// maxQuoted bounds what is quoted of nft, which repeats whole rules.
	maxQuoted = 400
	// syncFailed is what upstream logs of a transaction that failed; a test
	// notices when it changes. Its other errors do not count: listing rules fails
	// at every first start, when there are none.
	syncFailed = "nftables sync failed"
	// listFailed is what upstream logs at every first start too.
	listFailed = "Failed to list existing nftables objects"
)

// health knows whether Services are served: whether the kernel has accepted their
// rules. Upstream's own health server begins with yes and, as long as no change
// is overdue, stays there when no rule was ever written; the time of the last
// success is only in its metrics, and what nft said only in its log.
type health struct {
	families []corev1.IPFamily // that are served
	server   *healthcheck.ProxyHealthServer
	log      *slog.Logger

	mu    sync.Mutex
	fault string // what went wrong last, one line
}

// listen returns a context whose logger also passes failed transactions to h.
func (h *health) listen(ctx context.Context) context.Context {
	logger := klog.FromContext(ctx)
	return klog.NewContext(ctx, logger.WithSink(faultSink{logger.GetSink(), h.note}))
}

func (h *health) note(err error) {
	text := strings.Join(strings.Fields(err.Error()), " ") // nft underlines a mistake on a line of its own
	if len(text) > maxQuoted {
		text = text[:maxQuoted] + "..."
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fault == "" && h.unwritten() != "" {
		h.log.Error("the rules for Services cannot be written, retrying", "error", text)
	}
	h.fault = text
}

// unwritten returns a family whose rules were never written, or "".
func (h *health) unwritten() corev1.IPFamily {
	for _, family := range h.families {
		if !isWritten(family) {
			return family
		}
	}
	return ""
}

// check returns nil while Services are served, and while nothing has gone wrong yet.
func (h *health) check() error {
	h.mu.Lock()
	fault := h.fault
	h.mu.Unlock()
	if family := h.unwritten(); family != "" && fault != "" {
		return fmt.Errorf("services are not served: writing the nftables rules for %s: %s", family, fault)
	}
	for family, status := range h.server.Health().Status {
		if !status.Healthy {
			return fmt.Errorf("changes of Services have not reached the nftables rules for %s since %s: %s",
				family, status.LastUpdated.Format(time.TimeOnly), fault)
		}
	}
	return nil
}

// wait calls sync until the first rules of all families are written. It returns false
// when ctx ends before.
func (h *health) wait(ctx context.Context, sync func()) bool {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	for h.unwritten() != "" {
		select {
		case <-ctx.Done():
			return false
		case <-retry.C:
			sync()
		case <-tick.C:
		}
	}
	return true
}

// isWritten reports whether a transaction with all rules of the family succeeded
// in this process. What the process before left in the kernel does not count.
func isWritten(family corev1.IPFamily) bool { return lastWritten(family) > 0 }

// lastWritten returns when the last such transaction succeeded, in Unix seconds, 0 for
// never.
func lastWritten(family corev1.IPFamily) float64 {
	gauge, err := metrics.SyncProxyRulesLastTimestamp.WithLabelValuesChecked(string(family))
	if err != nil {
		return 0 // not registered yet
	}
	metric, ok := gauge.(interface{ Write(*dto.Metric) error })
	var value dto.Metric
	if !ok || metric.Write(&value) != nil {
		return 0
	}
	return value.GetGauge().GetValue()
}

// faultSink passes the errors of transactions to note as well.
type faultSink struct {
	logr.LogSink
	note func(error)
}

func (s faultSink) Error(err error, msg string, keysAndValues ...any) {
	if msg == listFailed && err != nil && strings.Contains(err.Error(), "No such file or directory") {
		return // there is no table to look into before the first transaction
	}
	if msg == syncFailed && err != nil {
		s.note(err)
	}
	s.LogSink.Error(err, msg, keysAndValues...)
}

func (s faultSink) WithValues(keysAndValues ...any) logr.LogSink {
	return faultSink{s.LogSink.WithValues(keysAndValues...), s.note}
}

func (s faultSink) WithName(name string) logr.LogSink {
	return faultSink{s.LogSink.WithName(name), s.note}
}

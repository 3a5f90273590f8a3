package controlplane

// What upstream's main packages import for its effect alone. Embedding a component
// leaves its main package out, and with it these; a test compares them with
// upstream's. Not here is logs/json/register: all components share brink's log, which
// has no JSON format.
import (
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of clients and of leader election
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	_ "time/tzdata"                                       // time zones of CronJobs on hosts that have none
)

// recordFeatures puts feature gates and versions among the metrics, as upstream's
// commands do before they run a component.
func recordFeatures() {
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
	compatibility.DefaultComponentGlobalsRegistry.AddMetrics()
}

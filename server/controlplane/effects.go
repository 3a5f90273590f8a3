package controlplane

// These are the imports of upstream's main packages for their side effects. Embedding a
// component leaves out its main package, and these with it; a test compares them with
// upstream's. logs/json/register is left out: all components share brink's log, which has no
// JSON format.
import (
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of clients and of leader election
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	_ "time/tzdata"                                       // time zones of CronJobs on hosts that have none
)

// recordFeatures adds feature gates and versions to the metrics, as upstream's commands do
// before they run a component.
func recordFeatures() {
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
	compatibility.DefaultComponentGlobalsRegistry.AddMetrics()
}

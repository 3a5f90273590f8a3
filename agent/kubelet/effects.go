package kubelet

// What upstream's main package imports for its effect alone; see the same file in
// server/controlplane.
import (
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

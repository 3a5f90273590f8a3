package controlplane

import (
	"io"
	"slices"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/kubeapiserver/options"
)

// useAdmissionPlugins adds brink's own admission plugins to upstream's, each in a file
// apiserver_admission_NAME.go. Which of upstream's run is upstream's default and the user's
// choice, by --kube-apiserver-arg=enable-admission-plugins and disable-admission-plugins.
func useAdmissionPlugins(opts *options.AdmissionOptions, cfg Config) {
	useNodeClaims(opts, cfg)
	useJoinRequests(opts)
}

// addPlugin adds a plugin that runs right after another one.
func addPlugin(opts *options.AdmissionOptions, name, after string, plugin func() admission.Interface) {
	generic := opts.GenericAdmission
	generic.Plugins.Register(name, func(io.Reader) (admission.Interface, error) { return plugin(), nil })
	order := generic.RecommendedPluginOrder
	generic.RecommendedPluginOrder = slices.Insert(slices.Clone(order), slices.Index(order, after)+1, name)
}

package controlplane

import (
	"k8s.io/client-go/informers/admissionregistration"
	"k8s.io/client-go/informers/apiserverinternal"
	"k8s.io/client-go/informers/apps"
	"k8s.io/client-go/informers/autoscaling"
	"k8s.io/client-go/informers/batch"
	"k8s.io/client-go/informers/certificates"
	"k8s.io/client-go/informers/coordination"
	"k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/discovery"
	"k8s.io/client-go/informers/events"
	"k8s.io/client-go/informers/extensions"
	"k8s.io/client-go/informers/flowcontrol"
	"k8s.io/client-go/informers/networking"
	"k8s.io/client-go/informers/node"
	"k8s.io/client-go/informers/policy"
	"k8s.io/client-go/informers/rbac"
	"k8s.io/client-go/informers/resource"
	"k8s.io/client-go/informers/scheduling"
	"k8s.io/client-go/informers/storage"
	"k8s.io/client-go/informers/storagemigration"
)

// An accessor of the embedded factory would call that factory's InformerFor and not the
// heldFactory's, so each is overridden here. TestHeldFactoryCoversAllGroups fails when
// upstream adds a group that is missing here.

func (f *heldFactory) Admissionregistration() admissionregistration.Interface {
	return admissionregistration.New(f, "", nil)
}
func (f *heldFactory) Internal() apiserverinternal.Interface {
	return apiserverinternal.New(f, "", nil)
}
func (f *heldFactory) Apps() apps.Interface                 { return apps.New(f, "", nil) }
func (f *heldFactory) Autoscaling() autoscaling.Interface   { return autoscaling.New(f, "", nil) }
func (f *heldFactory) Batch() batch.Interface               { return batch.New(f, "", nil) }
func (f *heldFactory) Certificates() certificates.Interface { return certificates.New(f, "", nil) }
func (f *heldFactory) Coordination() coordination.Interface { return coordination.New(f, "", nil) }
func (f *heldFactory) Core() core.Interface                 { return core.New(f, "", nil) }
func (f *heldFactory) Discovery() discovery.Interface       { return discovery.New(f, "", nil) }
func (f *heldFactory) Events() events.Interface             { return events.New(f, "", nil) }
func (f *heldFactory) Extensions() extensions.Interface     { return extensions.New(f, "", nil) }
func (f *heldFactory) Flowcontrol() flowcontrol.Interface   { return flowcontrol.New(f, "", nil) }
func (f *heldFactory) Networking() networking.Interface     { return networking.New(f, "", nil) }
func (f *heldFactory) Node() node.Interface                 { return node.New(f, "", nil) }
func (f *heldFactory) Policy() policy.Interface             { return policy.New(f, "", nil) }
func (f *heldFactory) Rbac() rbac.Interface                 { return rbac.New(f, "", nil) }
func (f *heldFactory) Resource() resource.Interface         { return resource.New(f, "", nil) }
func (f *heldFactory) Scheduling() scheduling.Interface     { return scheduling.New(f, "", nil) }
func (f *heldFactory) Storage() storage.Interface           { return storage.New(f, "", nil) }
func (f *heldFactory) Storagemigration() storagemigration.Interface {
	return storagemigration.New(f, "", nil)
}

package controlplane

import "k8s.io/client-go/informers"

// Informers are the API server's own, which the controllers and the scheduler
// share. There are none before the API server is ready.
func (cp *ControlPlane) Informers() informers.SharedInformerFactory { return cp.shared }

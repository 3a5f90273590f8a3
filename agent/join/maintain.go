package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/certificate"

	"brink/internal/wire/nodeuser"
)

// expiryInterval is how often a running node checks whether its certificate has expired,
// as it does when servers were away for longer than it is valid.
const expiryInterval = time.Minute

// Maintain renews the certificate and follows the cluster's servers until ctx ends.
// onServers gets each change of the known servers, with those among them that have
// announced themselves to the cluster. When it returns, nothing of it runs any more.
func (j *Join) Maintain(ctx context.Context, onServers func(known, announced []string)) error {
	client, err := kubernetes.NewForConfig(j.API(""))
	if err != nil {
		return err
	}
	j.certs.changed = j.api.renew
	j.refusal.onRefusal(j.tellRefused)
	renewals, err := certificate.NewManager(&certificate.Config{
		ClientsetFn:      func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil },
		Template:         &x509.CertificateRequest{Subject: nodeuser.Subject(j.cfg.NodeName)},
		SignerName:       certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages:        certificate.DefaultKubeletClientGetUsages,
		CertificateStore: j.certs,
	})
	if err != nil {
		return err
	}
	renewals.Start()
	defer renewals.Stop()
	onServers(j.pool.All(), nil)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait() // seen is written down at the end
	defer cancel()
	running.Go(func() { j.followServers(ctx, client, onServers) })
	running.Go(func() { j.seen.saveRegularly(ctx) })
	checked := make(chan error, 1)
	running.Go(func() { checked <- j.checkSettings(ctx) })
	return j.untilUnusable(ctx, checked)
}

// untilUnusable returns an error when the node has to be started again: its settings are
// not those of its cluster, which checked says, or its certificate has expired.
func (j *Join) untilUnusable(ctx context.Context, checked <-chan error) error {
	tick := time.NewTicker(expiryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-checked:
			if err != nil && ctx.Err() == nil {
				return err
			}
		case <-tick.C:
		}
		// Nobody accepts it any more, so nobody renews it. Joining again does.
		if err := j.certs.usable(time.Now()); err != nil {
			return fmt.Errorf("%w: start brink again to join again", err)
		}
	}
}

// ownSlice is the EndpointSlice, the list of a Service's addresses, that the API servers
// maintain for themselves, all of them in one (upstream's EndpointsAdapter). Another one
// with the label of the Service kubernetes may be from anybody with the right to create
// EndpointSlices in the namespace default.
const ownSlice = "kubernetes"

// followServers watches the addresses of the API servers, which they write themselves.
func (j *Join) followServers(ctx context.Context, client kubernetes.Interface, onServers func(known, announced []string)) {
	source := cache.NewFilteredListWatchFromClient(client.DiscoveryV1().RESTClient(), "endpointslices", metav1.NamespaceDefault,
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, ownSlice).String()
			j.seen.note(o.ResourceVersion) // before a server that is behind makes the watch forget it
		})
	var slices cache.Store
	changed := func(any) {
		announced := endpoints(slices.List())
		if err := j.pool.Set(announced); err != nil {
			warn(err)
		}
		onServers(j.pool.All(), announced)
	}
	slices, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source,
		ObjectType:    &discoveryv1.EndpointSlice{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    changed,
			UpdateFunc: func(_, now any) { changed(now) },
			DeleteFunc: changed,
		},
	})
	j.seen.follow(informer.LastSyncResourceVersion)
	informer.RunWithContext(ctx)
}

// endpoints returns the addresses in EndpointSlices, "host:port".
func endpoints(slices []any) []string {
	var out []string
	for _, object := range slices {
		slice, ok := object.(*discoveryv1.EndpointSlice)
		if !ok || slice.Name != ownSlice {
			continue
		}
		for _, endpoint := range slice.Endpoints {
			for _, port := range slice.Ports {
				if port.Port != nil && len(endpoint.Addresses) > 0 {
					out = append(out, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	return out
}

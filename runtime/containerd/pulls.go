package containerd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"brink/internal/lifecycle"
	"brink/runtime/images"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pulls stands before the CRI's pulls of images, for two things that the CRI does not do.
//
// A pull that breaks off goes on where it stopped. containerd pulls under a lease that
// ends with the pull, and its garbage collector then drops all that was fetched within
// seconds. Here the pull gets a lease of its own, which a failed pull leaves behind: the
// next one finds whole layers, and continues the others by a request for the range that is
// missing. The lease is in containerd's database, so it also holds over a power cut. It has
// no expiry of containerd's, which goes by the clock, and a board's clock jumps. tidy ends
// what nobody asks for any more.
//
// A pull waits while archives are read that may bring the image. Without that a start
// without a network would let the kubelet fail, and wait ever longer between its tries.
type pulls struct {
	leases     leases.Manager
	content    content.Store
	images     coreimages.Store
	containers containers.Store
	root       string          // of containerd's data
	arrived    <-chan struct{} // closed when archives were read
	keep       time.Duration   // for how long a kept pull may be without a try
	log        context.Context // of the component

	mu     sync.Mutex
	pulled map[string]*pull // by the name of the image
}

// pull is what is known of the pulls of one image since the start.
type pull struct {
	running int
	done    bool // one that is over has succeeded
	since   time.Time
	last    time.Time
	pods    map[string]bool // ids of the pods that wanted it
	listed  bool            // a list of images wanted it
	told    int64           // bytes kept, as the log says
}

const pullMethod = "/runtime.v1.ImageService/PullImage"

// The labels of a lease that holds what a pull has fetched: the image, and the pod that
// wanted it first, or that a list of images did.
const (
	pullLabel     = "brink.io/pull"
	pullPodLabel  = "brink.io/pull-pod"
	pullListLabel = "brink.io/pull-list"
)

// pullsKey is how the component hands its configuration to the plugin.
type pullsKey struct{}

func (c Config) withPulls(ctx context.Context) context.Context {
	return context.WithValue(ctx, pullsKey{}, c)
}

func newPulls(ic *plugin.InitContext) (*pulls, error) {
	manager, err := ic.GetSingle(plugins.LeasePlugin)
	if err != nil {
		return nil, err
	}
	m, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	cfg, ok := ic.Context.Value(pullsKey{}).(Config)
	if !ok {
		return nil, errors.New("the component's configuration is missing")
	}
	db := m.(*metadata.DB)
	p := &pulls{
		leases: manager.(leases.Manager), content: db.ContentStore(),
		images: metadata.NewImageStore(db), containers: metadata.NewContainerStore(db),
		root: cfg.Layout.ContainerdRoot(), arrived: cfg.ArchivesRead, keep: cfg.KeepPulls,
		log: ic.Context, pulled: map[string]*pull{},
	}
	if p.keep == 0 {
		p.keep = keepPulls
	}
	return p, nil
}

// intercept is a grpc.UnaryServerInterceptor.
func (p *pulls) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	r, ok := req.(*cri.PullImageRequest)
	if info.FullMethod != pullMethod || !ok {
		return handle(ctx, req)
	}
	ctx = namespaces.WithNamespace(ctx, images.Namespace)
	name := images.WholeName(r.GetImage().GetImage())
	came, err := p.waitForArchives(ctx, name)
	if err != nil {
		return nil, err
	}
	if came && r.GetAuth() == nil {
		if resp, failure, done := p.pullWhatCame(ctx, name, r, handle); done {
			return resp, failure
		}
	}
	lease, err := p.begin(ctx, name, r.GetSandboxConfig().GetMetadata().GetUid(), images.IsOfList(ctx))
	if err != nil {
		return nil, status.Errorf(codes.Internal, "beginning to pull %s: %v", name, err)
	}
	resp, err := handle(leases.WithLease(ctx, lease.ID), req)
	p.end(context.WithoutCancel(ctx), name, lease, err)
	return resp, err
}

// waitForArchives returns when the archives that lay there at the start have been read, or
// when one has brought the image, which it reports.
func (p *pulls) waitForArchives(ctx context.Context, name string) (came bool, err error) {
	if p.arrived == nil || p.has(ctx, name) {
		return false, nil
	}
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.arrived:
			return p.has(ctx, name), nil
		case <-ctx.Done():
			return false, status.FromContextError(ctx.Err()).Err()
		case <-tick.C:
			if p.has(ctx, name) {
				return true, nil
			}
		}
	}
}

// cameTimeout is how long a registry may take to say whether it has another image than the
// archive that has just been read.
const cameTimeout = 5 * time.Second

// pullWhatCame answers a request for an image that an archive has brought meanwhile. The
// kubelet does not say whether it asks because the image was missing, or because the pod
// wants what the registry has now, or wants to know whether it may have the image. So the
// registry is asked, and what it says counts, also that it denies the image. Only where
// none could be reached the request has what came. Requests with credentials never come
// here. It is not done when a registry answered and needs more time to send the image.
func (p *pulls) pullWhatCame(ctx context.Context, name string, r *cri.PullImageRequest, handle grpc.UnaryHandler) (resp any, failure error, done bool) {
	soon, cancel := context.WithTimeout(ctx, cameTimeout)
	defer cancel()
	asked, heard := listen(soon)
	resp, failure = handle(asked, r)
	switch {
	case failure == nil || ctx.Err() != nil:
		return resp, failure, true
	case heard():
		return nil, failure, soon.Err() == nil
	}
	image, err := p.images.Get(ctx, name)
	if err != nil {
		return nil, failure, true
	}
	config, err := coreimages.Config(ctx, p.content, image.Target, platforms.Default())
	if err != nil {
		return nil, failure, true
	}
	// The CRI hears of an imported image by an event.
	time.Sleep(200 * time.Millisecond)
	return &cri.PullImageResponse{ImageRef: config.Digest.String()}, nil, true
}

func (p *pulls) has(ctx context.Context, name string) bool {
	_, err := p.images.Get(ctx, name)
	return err == nil
}

// leaseID is the same for each pull of an image.
func leaseID(name string) string {
	return fmt.Sprintf("brink-pull-%x", sha256.Sum256([]byte(name)))
}

// begin returns the lease of a pull, which an earlier one may have left.
func (p *pulls) begin(ctx context.Context, name, pod string, listed bool) (leases.Lease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := p.stateLocked(name)
	state.running++
	state.last = time.Now()
	if pod != "" {
		state.pods[pod] = true
	}
	labels := map[string]string{pullLabel: name, pullPodLabel: pod}
	if listed {
		state.listed = true
		labels[pullListLabel] = "true"
	}
	lease, err := p.leases.Create(ctx, leases.WithID(leaseID(name)), leases.WithLabels(labels))
	if errdefs.IsAlreadyExists(err) {
		return leases.Lease{ID: leaseID(name), Labels: labels}, nil
	}
	if err != nil {
		state.running--
	}
	return lease, err
}

func (p *pulls) stateLocked(name string) *pull {
	if p.pulled[name] == nil {
		p.pulled[name] = &pull{pods: map[string]bool{}, since: time.Now(), last: time.Now()}
	}
	return p.pulled[name]
}

// end drops the lease of a pull that was the last and has succeeded, or has fetched
// nothing, or only what cannot become the image: of that a power cut may have left some.
func (p *pulls) end(ctx context.Context, name string, lease leases.Lease, failure error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := p.stateLocked(name)
	state.running--
	state.last = time.Now()
	state.done = state.done || failure == nil
	if state.running > 0 {
		return
	}
	isUseless := status.Code(failure) == codes.FailedPrecondition
	if isUseless {
		p.abort(ctx, lease)
	}
	kept := int64(0)
	if !state.done && !isUseless { // most pulls succeed: what they have is not counted
		kept = p.kept(ctx, lease)
	}
	if kept == 0 {
		p.dropLocked(ctx, name, lease)
		return
	}
	if kept != state.told {
		state.told = kept
		lifecycle.Logger(p.log).Warn("a pull broke off, the next one goes on where it stopped",
			"image", name, "kept", fmt.Sprintf("%.1f MiB", float64(kept)/(1<<20)), "error", status.Convert(failure).Message())
	}
}

// abort drops the unfinished downloads of a lease at once: the next pull may come before
// the garbage collector, and would continue them.
func (p *pulls) abort(ctx context.Context, lease leases.Lease) {
	held, err := p.leases.ListResources(ctx, lease)
	if err != nil {
		return
	}
	for _, r := range held {
		if r.Type == "ingests" {
			_ = p.content.Abort(ctx, r.ID) // it may have ended
		}
	}
}

// dropLocked ends a lease: the garbage collector takes what only the lease held.
func (p *pulls) dropLocked(ctx context.Context, name string, lease leases.Lease) {
	delete(p.pulled, name)
	if err := p.leases.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
		lifecycle.Logger(p.log).Warn("what a pull has fetched stays on the disk", "image", name, "error", err)
	}
}

// kept returns how many bytes a lease holds, of whole blobs and of unfinished ones.
func (p *pulls) kept(ctx context.Context, lease leases.Lease) int64 {
	held, err := p.leases.ListResources(ctx, lease)
	if err != nil {
		return 0
	}
	total := int64(0)
	for _, r := range held {
		switch r.Type {
		case "content":
			if info, err := p.content.Info(ctx, digestOf(r.ID)); err == nil {
				total += info.Size
			}
		case "ingests":
			if s, err := p.content.Status(ctx, r.ID); err == nil {
				total += s.Offset
			}
		}
	}
	return total
}

// podsLocked returns the pods that are known to want what a lease holds.
func (p *pulls) podsLocked(lease leases.Lease) []string {
	var out []string
	if state := p.pulled[lease.Labels[pullLabel]]; state != nil {
		for pod := range state.pods {
			out = append(out, pod)
		}
	}
	if first := lease.Labels[pullPodLabel]; first != "" && !slices.Contains(out, first) {
		out = append(out, first)
	}
	return out
}

// isWanted reports whether a pod still has a sandbox on this node. The kubelet makes it
// before it pulls, and removes it with the pod.
func (p *pulls) isWanted(ctx context.Context, pods []string) bool {
	for _, pod := range pods {
		if strings.ContainsAny(pod, `"\`) {
			continue
		}
		found, err := p.containers.List(ctx, fmt.Sprintf("labels.%q==%q", "io.kubernetes.pod.uid", pod))
		if err != nil || len(found) > 0 {
			return true
		}
	}
	return false
}

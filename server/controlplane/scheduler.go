package controlplane

import (
	"context"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	schedulerconfig "k8s.io/kubernetes/cmd/kube-scheduler/app/config"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"

	"brink/internal/componentargs"
)

type schedulerComponent struct {
	cp      *ControlPlane
	options *options.Options
}

func newScheduler(cp *ControlPlane, cfg Config) (*schedulerComponent, error) {
	opts := options.NewOptions()
	fs := merge("kube-scheduler", *opts.Flags)
	if err := componentargs.Parse(fs, "kube-scheduler-arg", []string{"profiling=false"}, cfg.SchedulerArgs); err != nil {
		return nil, err
	}
	defaults, err := latest.Default()
	if err != nil {
		return nil, err
	}
	opts.ComponentConfig = defaults
	opts.LeaderElection.LeaderElect = false
	opts.SecureServing.BindPort = 0
	opts.Master = inMemoryMaster
	return &schedulerComponent{cp: cp, options: opts}, nil
}

func (s *schedulerComponent) validate() error {
	if err := utilerrors.NewAggregate(s.options.Validate()); err != nil {
		return fmt.Errorf("checking --kube-scheduler-arg: %w", err)
	}
	return nil
}

// run schedules pods until ctx is done. It is ready when the scheduler's caches are filled.
func (s *schedulerComponent) run(ctx context.Context, ready func()) error {
	var config schedulerconfig.Config
	if err := s.options.ApplyTo(klog.FromContext(ctx), &config); err != nil {
		return fmt.Errorf("applying --kube-scheduler-arg: %w", err)
	}
	api := s.cp.ClientConfig("system:kube-scheduler")
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return err
	}
	dynamicClient, err := dynamic.NewForConfig(api)
	if err != nil {
		return err
	}
	broadcaster := events.NewEventBroadcasterAdapterWithContext(ctx, client)
	broadcaster.StartRecordingToSink(ctx.Done())
	defer broadcaster.Shutdown()

	pods := newSchedulerInformers(s.cp.shared, client)
	dynamicInformers := dynamicinformer.NewFilteredDynamicSharedInformerFactory(dynamicClient, 0, corev1.NamespaceAll, nil)
	cc := config.ComponentConfig
	sched, err := scheduler.New(ctx, client, pods, dynamicInformers,
		func(name string) events.EventRecorderLogger { return broadcaster.NewRecorder(name) },
		scheduler.WithComponentConfigVersion(cc.TypeMeta.APIVersion),
		scheduler.WithKubeConfig(api),
		scheduler.WithProfiles(cc.Profiles...),
		scheduler.WithPercentageOfNodesToScore(cc.PercentageOfNodesToScore),
		scheduler.WithPodMaxBackoffSeconds(cc.PodMaxBackoffSeconds),
		scheduler.WithPodInitialBackoffSeconds(cc.PodInitialBackoffSeconds),
		scheduler.WithPodMaxInUnschedulablePodsDuration(config.PodMaxInUnschedulablePodsDuration),
		scheduler.WithExtenders(cc.Extenders...),
		scheduler.WithParallelism(cc.Parallelism),
	)
	if err != nil {
		return fmt.Errorf("building the scheduler: %w", err)
	}
	pods.Start(ctx.Done())
	dynamicInformers.Start(ctx.Done())
	pods.WaitForCacheSync(ctx.Done())
	dynamicInformers.WaitForCacheSync(ctx.Done())
	if err := sched.WaitForHandlersSync(ctx); err != nil {
		return fmt.Errorf("filling the scheduler's caches: %w", err)
	}
	ready()
	sched.Run(ctx)
	return nil
}

// schedulerInformers is the shared factory with a pod informer of its own: the scheduler must
// not see finished pods, whose requests it would count as used, and everyone else needs them.
type schedulerInformers struct {
	informers.SharedInformerFactory
	pods cache.SharedIndexInformer
}

func newSchedulerInformers(shared informers.SharedInformerFactory, client kubernetes.Interface) *schedulerInformers {
	// scheduler.NewInformerFactory selects the right pods. Its other informers are never
	// asked for, so they are never made.
	pods := scheduler.NewInformerFactory(client, 0).Core().V1().Pods().Informer()
	return &schedulerInformers{SharedInformerFactory: shared, pods: pods}
}

var _ internalinterfaces.SharedInformerFactory = (*schedulerInformers)(nil)

// InformerFor returns the scheduler's own informer of pods, and the shared ones of all other
// types.
func (f *schedulerInformers) InformerFor(obj runtime.Object, newFunc internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	if _, ok := obj.(*corev1.Pod); ok {
		return f.pods
	}
	return f.SharedInformerFactory.InformerFor(obj, newFunc)
}

// Core makes lookups of pods call InformerFor.
func (f *schedulerInformers) Core() core.Interface {
	return core.New(f, metav1.NamespaceAll, nil)
}

func (f *schedulerInformers) Start(stop <-chan struct{}) {
	go f.pods.Run(stop)
	f.SharedInformerFactory.Start(stop)
}

func (f *schedulerInformers) WaitForCacheSync(stop <-chan struct{}) map[reflect.Type]bool {
	synced := f.SharedInformerFactory.WaitForCacheSync(stop)
	synced[reflect.TypeFor[*corev1.Pod]()] = cache.WaitForCacheSync(stop, f.pods.HasSynced)
	return synced
}

// eventSink returns where event recorders write.
func eventSink(client kubernetes.Interface) record.EventSink {
	return &typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")}
}

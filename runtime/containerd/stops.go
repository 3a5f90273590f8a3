package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/sys/signal"
	"go.etcd.io/bbolt"
)

// Stop is how a container wants to be stopped: by which signal, and how long it may take.
type Stop struct {
	Signal syscall.Signal
	Grace  time.Duration
}

const (
	// podNamespace is where the CRI keeps its containers.
	podNamespace = "k8s.io"
	// criMetadata is under which name the CRI keeps what the kubelet has asked for with a
	// container: internal/cri/labels of containerd.
	criMetadata = "io.cri-containerd.container.metadata"
	// graceAnnotation has a pod's terminationGracePeriodSeconds: pkg/kubelet/kuberuntime
	// of Kubernetes, labels.go.
	graceAnnotation = "io.kubernetes.pod.terminationGracePeriod"
	// databaseLimit is how long somebody else may still have the database open.
	databaseLimit = 5 * time.Second
)

// Stops reads from the database of a containerd that does not run how the containers of
// pods want to be stopped, by id. What a container does not say is left zero.
func Stops(ctx context.Context, database string) (map[string]Stop, error) {
	db, err := bbolt.Open(database, 0o600, &bbolt.Options{ReadOnly: true, Timeout: databaseLimit})
	if err != nil {
		return nil, fmt.Errorf("opening containerd's database %s: %w", database, err)
	}
	defer db.Close()
	store := metadata.NewContainerStore(metadata.NewDB(db, nil, nil))
	list, err := store.List(namespaces.WithNamespace(ctx, podNamespace))
	if err != nil {
		return nil, fmt.Errorf("reading containerd's database %s: %w", database, err)
	}
	out := map[string]Stop{}
	for _, c := range list {
		if s, ok := stopOf(c); ok {
			out[c.ID] = s
		}
	}
	return out, nil
}

func stopOf(c containers.Container) (Stop, bool) {
	any := c.Extensions[criMetadata]
	if any == nil {
		return Stop{}, false // a sandbox
	}
	var cri struct {
		Metadata struct {
			StopSignal string
			Config     struct{ Annotations map[string]string }
		}
	}
	if json.Unmarshal(any.GetValue(), &cri) != nil {
		return Stop{}, false
	}
	var s Stop
	if sig, err := signal.ParseSignal(cri.Metadata.StopSignal); err == nil {
		s.Signal = sig
	}
	if seconds, err := strconv.ParseInt(cri.Metadata.Config.Annotations[graceAnnotation], 10, 64); err == nil {
		s.Grace = time.Duration(seconds) * time.Second
	} else {
		return Stop{}, false
	}
	return s, true
}

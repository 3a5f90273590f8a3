package join

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/internal/atomicfile"
	"brink/internal/lifecycle"
	"brink/internal/wire/clusterconfig"
)

// offlinePatience is how long a machine that has joined waits for a server before
// it starts as it was: long enough to find two that do not answer before the third.
const offlinePatience = 15 * time.Second

// currentSettings returns the cluster's settings. They are from a server if online, else
// those of the last start.
func (j *Join) currentSettings(ctx context.Context) (settings clusterconfig.Config, online bool, err error) {
	last, lastErr := j.remembered()
	trying := ctx
	if lastErr == nil {
		var cancel context.CancelFunc
		trying, cancel = context.WithTimeout(ctx, offlinePatience)
		defer cancel()
	}
	var reason error
	err = retry(trying, readingSettings, func(ctx context.Context) error {
		settings, reason = j.settings(ctx)
		if errors.Is(reason, errRefused) {
			return permanent{reason}
		}
		return reason
	})
	if err == nil || lastErr != nil || ctx.Err() != nil || errors.As(err, &permanent{}) {
		return settings, true, err
	}
	lifecycle.Logger(ctx).Warn("the cluster's settings cannot be read: this node starts as it was, with its static pods; all other pods wait for a server", "error", brief(reason))
	return last, false, nil
}

const readingSettings = "reading the cluster's settings"

// remembered returns the settings of the last start.
func (j *Join) remembered() (clusterconfig.Config, error) {
	text, err := os.ReadFile(j.cfg.Layout.ClusterSettings())
	if err != nil {
		return clusterconfig.Config{}, err
	}
	return clusterconfig.Decode(string(text))
}

// settled is how long after its first answer a server has surely written its present
// settings: before that it may answer with those of its last run.
const settled = 30 * time.Second

// checkSettings returns an error when the settings that the node started with are
// not those of its cluster, and nil when they are or ctx ends. Only a node that started
// without a server ends then, as nobody else would tell it. One that had a server logs
// it and goes on: somebody is changing the settings, and restarts node after node.
func (j *Join) checkSettings(ctx context.Context) error {
	other := permanentf("the cluster's settings are others than those that this node started with: start brink again to use them")
	check := func(ctx context.Context) error {
		settings, err := j.settings(ctx)
		if err == nil && !reflect.DeepEqual(settings, j.used) {
			return other
		}
		return err
	}
	err := retry(ctx, readingSettings, check)
	if err == nil {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settled):
		}
		err = retry(ctx, readingSettings, check)
	}
	if err == other && j.online {
		warn(err)
		return nil
	}
	return err
}

// settings reads the cluster's settings and writes them down, with the CA that verifies
// the kubelet's callers.
func (j *Join) settings(ctx context.Context) (clusterconfig.Config, error) {
	none := clusterconfig.Config{}
	client, err := kubernetes.NewForConfig(j.API(""))
	if err != nil {
		return none, err
	}
	object, err := client.CoreV1().ConfigMaps(clusterconfig.Namespace).Get(ctx, clusterconfig.Name, metav1.GetOptions{})
	if err != nil && j.refusal.reason() != "" {
		return none, errRefused
	}
	if apierrors.IsUnauthorized(err) {
		return none, fmt.Errorf("the servers do not accept this node's certificate: if the cluster was made anew, brink uninstall and join again: %w", err)
	}
	if err != nil {
		return none, err
	}
	settings, err := clusterconfig.Decode(object.Data[clusterconfig.Key])
	if err != nil {
		return none, fmt.Errorf("ConfigMap %s/%s: %w", clusterconfig.Namespace, clusterconfig.Name, err)
	}
	j.remember(settings)
	return settings, atomicfile.Keep(j.cfg.Layout.ClientCA(), []byte(settings.ClientCA), 0o600)
}

// remember writes settings down. An error is only logged: a node whose disk is full
// must start, to make room.
func (j *Join) remember(settings clusterconfig.Config) {
	text, err := settings.Encode()
	if err == nil {
		err = atomicfile.Keep(j.cfg.Layout.ClusterSettings(), []byte(text), 0o600)
	}
	if err != nil {
		warn(fmt.Errorf("remembering the cluster's settings: %w", err))
	}
}

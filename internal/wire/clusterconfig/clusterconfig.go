// Package clusterconfig is the form of the settings that a node must know about its cluster:
// servers write them into a ConfigMap, and nodes read them, with the rights of a node, once
// they have joined. So each setting is given in one place, and no node can disagree with
// its cluster.
package clusterconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// The ConfigMap, and the key of its data that Decode reads.
const (
	Namespace = "kube-system"
	Name      = "brink-cluster"
	Key       = "cluster.json"
)

// Config has the settings, which are the same on every node.
type Config struct {
	ClusterCIDRs   []netip.Prefix `json:"clusterCIDRs"` // of pods, one a family
	ServiceCIDRs   []netip.Prefix `json:"serviceCIDRs"` // one a family
	ClusterDNS     []netip.Addr   `json:"clusterDNS"`
	ClusterDomain  string         `json:"clusterDomain"`
	NetworkBackend string         `json:"networkBackend"` // as network.ParseBackend takes it
	ClientCA       string         `json:"clientCA"`       // PEM; kubelets verify their clients by it
}

// Encode returns the text under Key.
func (c Config) Encode() (string, error) {
	text, err := json.MarshalIndent(c, "", "  ")
	return string(text), err
}

// Decode reads what Encode wrote. It ignores unknown keys: they come from a newer server.
func Decode(text string) (Config, error) {
	var c Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return Config{}, fmt.Errorf("reading the cluster's settings: %w", err)
	}
	return c, c.validate()
}

func (c Config) validate() error {
	var errs []error
	missing := func(is bool, key string) {
		if is {
			errs = append(errs, fmt.Errorf("the cluster's settings have no %s", key))
		}
	}
	missing(len(c.ClusterCIDRs) == 0, "clusterCIDRs")
	missing(len(c.ServiceCIDRs) == 0, "serviceCIDRs")
	missing(c.ClusterDomain == "", "clusterDomain")
	missing(c.ClientCA == "", "clientCA")
	return errors.Join(errs...)
}

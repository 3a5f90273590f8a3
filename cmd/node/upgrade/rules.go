package upgrade

import (
	"fmt"

	"brink/internal/release"
)

// checkVersions returns an error if a brink must not become another. server is the version of
// the cluster's server where the machine is an agent, nil otherwise.
func checkVersions(from, to release.Version, server *release.Version) error {
	switch {
	case to.Compare(from) < 0:
		return fmt.Errorf("%s is older than %s, which runs: brink upgrade --rollback goes back to the version before", to, from)
	case to.MinorsAfter(from) > 1:
		return fmt.Errorf("from %s to %s skips a minor version, which Kubernetes does not support: upgrade to v%d.%d first", from, to, from.Major, from.Minor+1)
	case server != nil && to.Compare(*server) > 0:
		return fmt.Errorf("%s is newer than the cluster's server, which has %s: upgrade the server first", to, *server)
	}
	return nil
}

// Package pki makes and renews the cluster's certificate authorities and the server's own
// certificates, below <data-dir>/server/tls.
//
// They are declared in one table (table.go): four authorities, valid for ten years, and the
// leaves that each of them signs, valid for one year. Ensure compares the table with the
// disk, makes what is missing and issues again what is due. It never writes a file that is
// right already, so a restart does not wear out the flash card. Renewer does the same while
// the server runs.
//
// Decisions:
//   - File names are k3s's, so that its documentation on bringing your own authorities
//     applies: server-ca.crt and server-ca.key that a user puts in place before the first
//     start are used, RSA and intermediates included.
//   - An authority is never replaced: everything that ever joined trusts it. One that
//     cannot be used is an error with the reason. A leaf is derived data and is issued
//     again whenever it does not fit: it has expired, has other names or another
//     authority, is damaged, or does not match its key because power was cut.
//   - Renewal keeps a leaf's key and renames one new certificate into place. Two files
//     cannot be replaced at one instant; with a constant key every reader finds a matching
//     pair at every moment.
//   - Validity starts an hour early, for machines whose clocks lag. Boards without a
//     real-time clock start in the past: by such a clock they would issue certificates
//     that are expired once the time is right. So authorities are not made before the year
//     of this release, and a clock before an authority's validity is an error.
//   - The API server reaches kubelets as user kube-apiserver-kubelet-client, in no group.
//     Upstream's role system:kubelet-api-admin is all it needs; in system:masters, as is
//     often seen, the key would give control of the cluster. The server must bind that
//     role to KubeletClientUser.
//
// Given up: keeping the tree in the datastore (a server needs it to reach one), and new keys
// at each renewal (see above).
package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"brink/internal/atomicfile"
)

// Lifetimes are how long certificates are valid. Zero fields have the default.
type Lifetimes struct {
	CA   time.Duration // default 10 years
	Leaf time.Duration // default 365 days
	// RenewBefore is how long before its end a leaf is issued again: default
	// 90 days, and never more than a third of Leaf.
	RenewBefore time.Duration
}

func (l Lifetimes) withDefaults() Lifetimes {
	if l.CA == 0 {
		l.CA = 10 * 365 * 24 * time.Hour
	}
	if l.Leaf == 0 {
		l.Leaf = 365 * 24 * time.Hour
	}
	if l.RenewBefore == 0 {
		l.RenewBefore = 90 * 24 * time.Hour
	}
	l.RenewBefore = min(l.RenewBefore, l.Leaf/3)
	return l
}

// Config is what the certificates are made for.
type Config struct {
	// Dir is <data-dir>/server/tls. Ensure makes it, 0700.
	Dir string
	// ClusterDomain is the DNS domain of Services, such as cluster.local.
	ClusterDomain string
	// NodeName and NodeIPs are the name and the addresses of the server's node.
	NodeName string
	NodeIPs  []netip.Addr
	// ServiceIPs are the addresses of the Service kubernetes: the first usable
	// one of every service CIDR.
	ServiceIPs []netip.Addr
	// ExtraSANs are further names and addresses of the API server (--tls-san).
	ExtraSANs []string

	Lifetimes Lifetimes
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Validate returns everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.Dir) {
		errs = append(errs, fmt.Errorf("certificate directory %q is not absolute", c.Dir))
	}
	if !isDNSName(c.ClusterDomain) {
		errs = append(errs, fmt.Errorf("cluster domain %q is not a DNS name in lower case", c.ClusterDomain))
	}
	if !isDNSName(c.NodeName) {
		errs = append(errs, fmt.Errorf("node name %q is not a DNS name in lower case", c.NodeName))
	}
	for _, san := range c.ExtraSANs {
		if !isSAN(san) {
			errs = append(errs, fmt.Errorf("--tls-san %q is neither an IP address nor a DNS name", san))
		}
	}
	return errors.Join(errs...)
}

func isSAN(s string) bool {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Zone() == ""
	}
	s = strings.ToLower(s)
	return isDNSName(s) || len(validation.IsWildcardDNS1123Subdomain(s)) == 0
}

func isDNSName(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }

// Tree is a directory with all certificates of the table, complete and valid when Ensure
// returns it.
type Tree struct {
	Dir
	cfg         Config
	authorities map[string]*authority

	mu     sync.Mutex // guards leaves and the files they came from
	leaves map[string]*issued
}

// Ensure brings the directory in line with the table and returns it. Its error is one line
// that names the file and what to do; it has overwritten nothing then. The caller must hold
// the data directory's lock.
func Ensure(cfg Config) (*Tree, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Lifetimes = cfg.Lifetimes.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	t := &Tree{Dir: Dir(cfg.Dir), cfg: cfg, authorities: map[string]*authority{}, leaves: map[string]*issued{}}
	if err := t.prepareDir(); err != nil {
		return nil, fmt.Errorf("preparing the certificate directory: %w", err)
	}
	if err := t.ensureRoots(); err != nil {
		return nil, err
	}
	if _, err := t.reissueDue(); err != nil {
		return nil, err
	}
	return t, nil
}

// ensureRoots loads every authority before it makes any: when one is damaged, no other is
// made.
func (t *Tree) ensureRoots() error {
	now := t.cfg.Now()
	for _, name := range authorityNames {
		a, err := t.loadAuthority(name, now)
		if err != nil {
			return err
		}
		t.authorities[name] = a
	}
	if err := t.ensureServiceKey(); err != nil {
		return err
	}
	for _, name := range authorityNames {
		if t.authorities[name] != nil {
			continue
		}
		a, err := t.makeAuthority(name, now)
		if err != nil {
			return fmt.Errorf("making the certificate authority %s: %w", name, err)
		}
		t.authorities[name] = a
	}
	return nil
}

// prepareDir makes the directory private and removes what an interrupted write left: half a
// private key should not stay for ever.
func (t *Tree) prepareDir() error {
	if err := os.MkdirAll(t.cfg.Dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(t.cfg.Dir, 0o700); err != nil {
		return err
	}
	var names []string
	for _, file := range t.files() {
		names = append(names, filepath.Base(file))
	}
	return atomicfile.Clean(t.cfg.Dir, names...)
}

// Pair returns a leaf's certificate, with its chain, and its key in PEM.
func (t *Tree) Pair(leaf string) (cert, key []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cert, err = os.ReadFile(t.Cert(leaf)); err != nil {
		return nil, nil, err
	}
	key, err = os.ReadFile(t.Key(leaf))
	return cert, key, err
}

// CheckClock returns an error when now is before the validity of an authority in dir, and nil
// when there is none yet. It writes nothing: host checks call it before the server runs.
func CheckClock(dir string, now time.Time) error {
	for _, name := range authorityNames {
		path := Dir(dir).Cert(name)
		certs, err := readCertificates(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := checkClock(path, certs[0], now); err != nil {
			return err
		}
	}
	return nil
}

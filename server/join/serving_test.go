package join

import (
	"crypto/x509"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/testaddr"
)

func TestServing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.addNode("till-3", "192.0.2.3", "2001:db8::3")
		c.addNode("till-4", "192.0.2.4", "192.0.2.9")
		c.addNode("till-5", "192.0.2.9")
		c.start()
		c.isApproved(c.asked(serving(t, "till-3", "192.0.2.3", "2001:db8::3")))
		c.isApproved(c.asked(serving(t, "till-3"))) // by name only
		bad := func(change func(*x509.CertificateRequest)) *certificatesv1.CertificateSigningRequest {
			template := x509.CertificateRequest{Subject: subject("till-3"), DNSNames: []string{"till-3"}}
			change(&template)
			return servingAs(t, template, "till-3")
		}
		refused := map[string]*certificatesv1.CertificateSigningRequest{
			`the common name "system:node:till-4" is not that of the node that asks, system:node:till-3`: bad(func(x *x509.CertificateRequest) { x.Subject = subject("till-4") }),
			`the name "till-4" is not that of the node that asks, till-3`:                                bad(func(x *x509.CertificateRequest) { x.DNSNames = []string{"till-3", "till-4"} }),
			`the name "kubernetes.default" is not that of the node that asks, till-3`:                    bad(func(x *x509.CertificateRequest) { x.DNSNames = []string{"kubernetes.default"} }),
			"a serving certificate needs a name or an address":                                           bad(func(x *x509.CertificateRequest) { x.DNSNames = nil }),
			"a node's certificate has no mail addresses and no URIs":                                     bad(func(x *x509.CertificateRequest) { x.EmailAddresses = []string{"a@example.org"} }),
		}
		for message, csr := range refused {
			c.isRefused(c.asked(csr), ReasonBadRequest, message)
		}
		csr := serving(t, "till-3")
		csr.Spec.Usages = append(csr.Spec.Usages, certificatesv1.UsageClientAuth)
		c.isRefused(c.asked(csr), ReasonBadRequest, `the usages have to be "digital signature" and "server auth", with or without "key encipherment"`)
	})
}

// Sites behind NAT number their machines alike.
func TestServingAtTwoSites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.addNode("site-1", "192.168.1.10")
		c.addNode("site-2", "192.168.1.10")
		c.sources = map[string][]netip.Addr{"site-1": testaddr.Addrs("198.51.100.1"), "site-2": testaddr.Addrs("198.51.100.2")}
		c.start()
		c.isApproved(c.asked(serving(t, "site-1", "192.168.1.10")))
		c.isApproved(c.asked(serving(t, "site-2", "192.168.1.10")))
	})
}

// Machines behind one router are reached from outside by its address.
func TestServingBehindOneRouter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		for name, ip := range map[string]string{"own": "192.168.1.10", "till-3": "192.168.1.11"} {
			c.addNode(name, ip)
			node, err := c.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.1"})
			if _, err := c.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.start()
		c.isApproved(c.asked(serving(t, "till-3", "192.168.1.11", "203.0.113.1")))
	})
}

func TestWhoHasAnAddress(t *testing.T) {
	t.Parallel()
	const private = "192.168.1.10"
	for name, c := range map[string]struct {
		ip           string
		from, others []netip.Addr
		other        string
		want         bool
	}{
		"the node speaks from there":              {private, testaddr.Addrs(private), testaddr.Addrs("198.51.100.2"), "other", true},
		"and nothing is known of the other":       {private, testaddr.Addrs("192.0.2.9", private), nil, "other", true},
		"both do, one behind the other":           {private, testaddr.Addrs(private), testaddr.Addrs(private), "other", false},
		"it speaks through the server's own":      {private, testaddr.Addrs(private), nil, "own", false},
		"two sites":                               {private, testaddr.Addrs("198.51.100.1"), testaddr.Addrs("198.51.100.2"), "other", true},
		"by IPv6, where each has its own":         {private, testaddr.Addrs("2001:db8::1"), testaddr.Addrs("198.51.100.2"), "other", false},
		"the other by IPv6":                       {private, testaddr.Addrs("198.51.100.1"), testaddr.Addrs("2001:db8::1"), "other", false},
		"from inside by the server's router":      {private, testaddr.Addrs("203.0.113.1"), testaddr.Addrs(private), "other", false},
		"one site":                                {private, testaddr.Addrs("198.51.100.1"), testaddr.Addrs("198.51.100.1", "198.51.100.2"), "other", false},
		"the other's site is not known":           {private, testaddr.Addrs("198.51.100.1"), nil, "other", false},
		"the node's is not":                       {private, nil, testaddr.Addrs("198.51.100.1"), "other", false},
		"the other is of the server's network":    {private, testaddr.Addrs("198.51.100.1"), testaddr.Addrs(private), "other", true},
		"as the node is":                          {private, testaddr.Addrs("192.168.1.66"), testaddr.Addrs(private), "other", false},
		"as one of its uplinks is":                {private, testaddr.Addrs("198.51.100.1", "192.168.1.66"), testaddr.Addrs(private), "other", false},
		"the server's own, from outside":          {private, testaddr.Addrs("198.51.100.1"), nil, "own", true},
		"the server's own, from its network":      {private, testaddr.Addrs("192.168.1.66"), nil, "own", false},
		"an address of the whole world, anywhere": {"203.0.113.5", testaddr.Addrs("198.51.100.1"), testaddr.Addrs("198.51.100.2"), "other", false},
	} {
		t.Run(name, func(t *testing.T) {
			sources := map[string][]netip.Addr{"node": c.from, "other": c.others}
			controller := Controller{cfg: Config{
				OwnNode: "own", Sources: func(node string) []netip.Addr { return sources[node] }, OuterIPs: testaddr.Addrs("203.0.113.1"),
			}}
			if got := controller.mayShareAddress("node", c.other, netip.MustParseAddr(c.ip)); got != c.want {
				t.Errorf("got %t", got)
			}
		})
	}
}

// Addresses may come into the status a moment later. What is not there after a
// minute will not be.
func TestServingAddresses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		node, address, message string
	}{
		{"till-3", "192.0.2.4", "the address 192.0.2.4 is not in the status of node till-3"},
		{"till-3", "127.0.0.1", "the address 127.0.0.1 is not in the status of node till-3"},
		{"till-4", "192.0.2.9", "the address 192.0.2.9 of node till-4 is also that of node till-5: give each its own with --node-ip, or remove the one that is gone with kubectl delete node till-5"},
		{"till-6", "192.0.2.6", "node till-6 has not registered"},
	}
	for _, test := range tests {
		t.Run(test.node+" "+test.address, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.addNode("till-3", "192.0.2.3")
				c.addNode("till-4", "192.0.2.9")
				c.addNode("till-5", "192.0.2.9")
				c.start()
				c.isApproved(c.asked(serving(t, "till-3"))) // it runs
				begun := time.Now()
				answer := c.asked(serving(t, test.node, test.address))
				if waited := time.Since(begun); waited < patience || waited > patience+2*recheckInterval {
					t.Errorf("answered after %s", waited)
				}
				c.isRefused(answer, ReasonAddressNotOwned, test.message)
			})
		})
	}
}

func TestServingBeforeTheStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		answered := make(chan certificatesv1.CertificateSigningRequestCondition)
		go func() { answered <- c.asked(serving(t, "till-3", "192.0.2.3")) }()
		time.Sleep(20 * time.Millisecond)
		c.addNode("till-3", "192.0.2.3")
		c.isApproved(<-answered)
	})
}

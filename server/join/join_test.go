package join

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"

	"brink/internal/testaddr"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
	"brink/server/token"
)

const (
	belongs = `node name "till-3" belongs to another machine: give this one another --node-name, or remove the old node with kubectl delete node till-3`
	joining = `node name "till-3" was taken a moment ago by another machine, which is joining: give this one another --node-name`
)

func TestNameBelongsToTheFirst(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start()
	first, thief := newMachine(t), newMachine(t)
	c.isApproved(c.asked(first.joining("till-3")))
	c.isRefused(c.asked(thief.joining("till-3")), ReasonNameTaken, joining)
	c.addNode("till-3")
	c.isBound("till-3")
	c.isRefused(c.asked(thief.joining("till-3")), ReasonNameTaken, belongs)
	c.isApproved(c.asked(first.joining("till-3"))) // reinstalled, while its node exists
	c.isApproved(c.asked(thief.joining("till-4"))) // a name of its own
}

// Deleting the node frees its name, in whatever order that is heard of.
func TestDeletedNodeFreesItsName(t *testing.T) {
	t.Parallel()
	for _, heard := range []string{"before", "after"} {
		t.Run(heard, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			first, second := newMachine(t), newMachine(t)
			c.start()
			c.isApproved(c.asked(first.joining("till-3")))
			c.addNode("till-3")
			c.isBound("till-3")
			c.removeNode("till-3")
			if heard == "before" {
				c.eventually("the record goes", func() bool { return c.record("till-3") == nil })
			}
			c.isApproved(c.asked(second.joining("till-3")))
			c.isRefused(c.asked(first.joining("till-3")), ReasonNameTaken, joining)
			c.addNode("till-3")
			c.isBound("till-3")
			c.isRefused(c.asked(first.joining("till-3")), ReasonNameTaken, belongs)
		})
	}
}

// One that joins again keeps its name, though the record of its deleted node is
// on its way out.
func TestRejoinAfterDeletion(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start()
	m := newMachine(t)
	for range 20 {
		c.isApproved(c.asked(m.joining("till-3")))
		c.addNode("till-3")
		c.isBound("till-3")
		c.removeNode("till-3")
	}
	c.isApproved(c.asked(m.joining("till-3")))
	c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, joining)
}

func TestUnusedRecordGoes(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start()
	first, second := newMachine(t), newMachine(t)
	c.isApproved(c.asked(first.joining("till-3")))
	c.wait(unusedAfter - time.Second)
	c.isRefused(c.asked(second.joining("till-3")), ReasonNameTaken, joining)
	c.isApproved(c.asked(first.joining("till-3"))) // its time begins again
	c.wait(unusedAfter - time.Second)
	c.isRefused(c.asked(second.joining("till-3")), ReasonNameTaken, joining)
	c.wait(time.Second)
	c.isApproved(c.asked(second.joining("till-3")))
}

// A machine that imports its images for long keeps its name as long as it is there,
// and for a day from nobody else.
func TestSlowMachineKeepsItsName(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.sources = map[string][]netip.Addr{"slow": {netip.MustParseAddr("192.0.2.1")}}
	controller := c.start()
	slow, silent := newMachine(t), newMachine(t)
	c.isApproved(c.asked(slow.joining("slow")))
	c.isApproved(c.asked(silent.joining("till-3")))
	c.wait(keptFor - time.Second)
	controller.queue.Add(task{kind: reconcileRecords})
	c.isRefused(c.asked(newMachine(t).joining("slow")), ReasonNameTaken, strings.ReplaceAll(joining, "till-3", "slow"))
	if c.record("till-3") == nil {
		t.Fatal("the record of a machine that takes long is gone")
	}
	c.addNode("till-3")
	c.isBound("till-3")
	c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, belongs)
}

// What happened while no server ran is seen at the start.
func TestRecordsAtStart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	put := func(name string, annotations map[string]string) {
		r := newRecord(name, claimant{"key", "key"})
		r.Annotations = annotations
		if _, err := c.CoreV1().Secrets(namespace).Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put("deleted", map[string]string{nodeUID: "uid-of-old"})
	put("never-came", nil)
	put("registered", nil)
	put("imports", nil) // for longer than a day: its tunnel shows that it lives
	c.sources = map[string][]netip.Addr{"imports": {netip.MustParseAddr("192.0.2.1")}, "deleted": {netip.MustParseAddr("192.0.2.2")}}
	c.wait(keptFor)
	put("joins", nil)
	c.addNode("registered")
	c.start()
	c.isBound("registered")
	for _, gone := range []string{"deleted", "never-came"} {
		c.eventually(gone+" goes", func() bool { return c.record(gone) == nil })
	}
	for _, joining := range []string{"joins", "imports"} {
		if c.record(joining) == nil {
			t.Errorf("%s: the record of a machine that is joining is gone", joining)
		}
	}
}

func TestNodeWithoutRecordIsTaken(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addNode("till-3")
	c.start()
	c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, belongs)
	c.isRefused(c.asked(newMachine(t).joining("own")), ReasonNameTaken, `node name "own" is that of the server: give this machine another --node-name`)
	if c.record("till-3") != nil || c.record("own") != nil {
		t.Error("a refused machine has a record")
	}
}

// The API server goes on to take a token for a moment after its end.
func TestTokenThatHasEnded(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.clock = time.Now()
	deleted, expires, gone, theirs := jointoken.New(hash), jointoken.New(hash), jointoken.New(hash), jointoken.New(hash)
	c.addSecret(token.NewSecret(deleted, 0, ""))
	c.addSecret(token.NewSecret(expires, time.Hour, ""))
	c.addSecret(foreign(theirs, 0))
	if err := token.Delete(t.Context(), c, deleted.ID); err != nil {
		t.Fatal(err)
	}
	c.start()
	m := newMachine(t)
	by := func(joined jointoken.Token) *certificatesv1.CertificateSigningRequest {
		r := m.joining("till-3")
		r.Spec.Username = "system:bootstrap:" + joined.ID
		return r
	}
	c.isApproved(c.asked(by(expires)))
	c.wait(time.Hour + time.Second) // whole seconds are kept of the end
	for ended, state := range map[jointoken.Token]jointoken.State{
		deleted: jointoken.Deleted, expires: jointoken.Expired, gone: jointoken.Unknown, theirs: jointoken.Unknown,
	} {
		c.isRefused(c.asked(by(ended)), ReasonTokenEnded,
			fmt.Sprintf("token %s is %s: get another one with brink token create", ended.ID, state))
	}
}

// Many machines come with one name at one moment.
func TestRaceForAName(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start()
	const machines = 20
	var approved atomic.Int32
	var all sync.WaitGroup
	requests := make([]*certificatesv1.CertificateSigningRequest, machines)
	for i := range requests {
		requests[i] = newMachine(t).joining("till-3")
	}
	for _, csr := range requests {
		all.Go(func() {
			if c.asked(csr).Type == certificatesv1.CertificateApproved {
				approved.Add(1)
			}
		})
	}
	all.Wait()
	if n := approved.Load(); n != 1 {
		t.Errorf("%d machines were approved for one name", n)
	}
}

// Another server may be quicker at any moment: the record's creation decides.
func TestRaceBetweenServers(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var once sync.Once
	c.PrependReactor("create", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		raced := false
		once.Do(func() {
			raced = true
			r := newRecord("till-3", claimant{"another machine's", "key"})
			r.CreationTimestamp = metav1.NewTime(c.now())
			if err := c.Tracker().Add(r); err != nil {
				t.Error(err)
			}
		})
		if raced {
			return true, nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "secrets"}, "till-3")
		}
		return false, nil, nil
	})
	c.start()
	c.isRefused(c.asked(newMachine(t).joining("till-3")), ReasonNameTaken, joining)
}

// Conflicts, a webhook that refuses for a while: the answer comes at last.
func TestTriesUntilItIsWritten(t *testing.T) {
	t.Parallel()
	for what, problem := range map[string]error{
		"conflict": apierrors.NewConflict(schema.GroupResource{}, "it", errors.New("changed")),
		"webhook":  apierrors.NewInternalError(errors.New("failed calling webhook")),
	} {
		for _, verb := range []string{"create secrets", "update certificatesigningrequests"} {
			t.Run(what+" "+verb, func(t *testing.T) {
				t.Parallel()
				c := newCluster(t)
				var tries atomic.Int32
				action, resource, _ := strings.Cut(verb, " ")
				c.PrependReactor(action, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
					return tries.Add(1) <= 3, nil, problem
				})
				c.start()
				c.isApproved(c.asked(newMachine(t).joining("till-3")))
			})
		}
	}
}

func TestBadClientRequests(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	type csr = certificatesv1.CertificateSigningRequest
	with := func(change func(*csr)) *csr {
		r := m.joining("till-3")
		change(r)
		return r
	}
	as := func(change func(*x509.CertificateRequest)) *csr {
		template := x509.CertificateRequest{Subject: subject("till-3")}
		change(&template)
		return m.joiningAs(template)
	}
	const usages = `the usages have to be "digital signature" and "client auth", with or without "key encipherment"`
	long := strings.Repeat("a", 64)
	tests := map[string]struct {
		csr     *csr
		message string
	}{
		"no proof":        {with(func(r *csr) { r.Annotations = nil }), "the request has no proof of the machine's node password: is this an agent of brink?"},
		"damaged proof":   {with(func(r *csr) { r.Annotations[nodekey.Annotation] = "AAAA" }), "the proof of the machine's node password is damaged"},
		"another's proof": {with(func(r *csr) { r.Annotations = m.joining("till-3").Annotations }), "the proof of the machine's node password is not one for this request"},
		"no PEM":          {with(func(r *csr) { r.Spec.Request = []byte("hello") }), "this is not one certificate request in PEM form"},
		"two requests":    {with(func(r *csr) { r.Spec.Request = append(r.Spec.Request, r.Spec.Request...) }), "this is not one certificate request in PEM form"},
		"damaged":         {with(func(r *csr) { r.Spec.Request = inPEM([]byte("hello")) }), "the certificate request is damaged"},
		"forged": {with(func(r *csr) {
			der := signed(t, x509.CertificateRequest{Subject: subject("till-3")})
			der[len(der)-1] ^= 1
			r.Spec.Request = inPEM(der)
		}), "the certificate request is not signed by its key"},
		"no usages":    {with(func(r *csr) { r.Spec.Usages = nil }), usages},
		"server's":     {with(func(r *csr) { r.Spec.Usages = append(r.Spec.Usages, certificatesv1.UsageServerAuth) }), usages},
		"only signing": {with(func(r *csr) { r.Spec.Usages = r.Spec.Usages[:1] }), usages},
		"user":         {as(func(x *x509.CertificateRequest) { x.Subject.CommonName = "admin" }), `the common name "admin" does not begin with system:node:`},
		"masters":      {as(func(x *x509.CertificateRequest) { x.Subject.Organization = []string{"system:masters"} }), "the subject has to be the organization system:nodes and the common name, and nothing else"},
		"two groups":   {as(func(x *x509.CertificateRequest) { x.Subject.Organization = []string{"system:nodes", "system:masters"} }), "the subject has to be the organization system:nodes and the common name, and nothing else"},
		"more subject": {as(func(x *x509.CertificateRequest) { x.Subject.OrganizationalUnit = []string{"x"} }), "the subject has to be the organization system:nodes and the common name, and nothing else"},
		"no name":      {m.joining(""), `"" is not usable as a node name: lower-case letters, digits, '-' and '.' only`},
		"capitals":     {m.joining("Till"), `"Till" is not usable as a node name: lower-case letters, digits, '-' and '.' only`},
		"path":         {m.joining("../x"), `"../x" is not usable as a node name: lower-case letters, digits, '-' and '.' only`},
		"long":         {m.joining(long), `the node name "` + long + `" is longer than 63 characters: give a shorter --node-name`},
		"names":        {as(func(x *x509.CertificateRequest) { x.DNSNames = []string{"till-3"} }), "a client certificate has no alternative names"},
		"addresses":    {as(func(x *x509.CertificateRequest) { x.IPAddresses = []net.IP{net.ParseIP("192.0.2.1")} }), "a client certificate has no alternative names"},
		"mail":         {as(func(x *x509.CertificateRequest) { x.EmailAddresses = []string{"a@example.org"} }), "a node's certificate has no mail addresses and no URIs"},
		"URI":          {as(func(x *x509.CertificateRequest) { x.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }), "a node's certificate has no mail addresses and no URIs"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			c.start()
			c.isRefused(c.asked(test.csr), ReasonBadRequest, test.message)
			secrets, err := c.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
			if err != nil || len(secrets.Items) != 1 { // the token
				t.Errorf("a refused request left %v, %v", secrets.Items, err)
			}
		})
	}
}

func TestServing(t *testing.T) {
	t.Parallel()
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
}

// Sites behind NAT number their machines alike.
func TestServingAtTwoSites(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addNode("site-1", "192.168.1.10")
	c.addNode("site-2", "192.168.1.10")
	c.sources = map[string][]netip.Addr{"site-1": testaddr.Addrs("198.51.100.1"), "site-2": testaddr.Addrs("198.51.100.2")}
	c.start()
	c.isApproved(c.asked(serving(t, "site-1", "192.168.1.10")))
	c.isApproved(c.asked(serving(t, "site-2", "192.168.1.10")))
}

// Machines behind one router are reached from outside by its address.
func TestServingBehindOneRouter(t *testing.T) {
	t.Parallel()
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
			c := newCluster(t)
			c.addNode("till-3", "192.0.2.3")
			c.addNode("till-4", "192.0.2.9")
			c.addNode("till-5", "192.0.2.9")
			c.start()
			c.isApproved(c.asked(serving(t, "till-3"))) // it runs
			answered := make(chan certificatesv1.CertificateSigningRequestCondition, 1)
			go func() { answered <- c.asked(serving(t, test.node, test.address)) }()
			begun := c.now()
			for {
				select {
				case answer := <-answered:
					if waited := c.now().Sub(begun); waited < patience {
						t.Errorf("answered after %s", waited)
					}
					c.isRefused(answer, ReasonAddressNotOwned, test.message)
					return
				case <-time.After(50 * time.Millisecond):
					c.wait(patience / 2)
				}
			}
		})
	}
}

func TestServingBeforeTheStatus(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start()
	answered := make(chan certificatesv1.CertificateSigningRequestCondition)
	go func() { answered <- c.asked(serving(t, "till-3", "192.0.2.3")) }()
	time.Sleep(20 * time.Millisecond)
	c.addNode("till-3", "192.0.2.3")
	c.isApproved(<-answered)
}

// What others decide on stays as it is.
func TestOthersRequests(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.start()
	type csr = certificatesv1.CertificateSigningRequest
	m := newMachine(t)
	with := func(r *csr, change func(*csr)) *csr { change(r); return r }
	others := map[string]*csr{
		"another group's token": with(m.joining("a"), func(r *csr) {
			r.Spec.Groups = []string{"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"}
		}),
		"a user in the group": with(m.joining("b"), func(r *csr) { r.Spec.Username = "eve" }),
		"a user's renewal":    with(m.joining("c"), func(r *csr) { r.Spec.Username, r.Spec.Groups = "eve", []string{"system:nodes"} }),
		"another signer's":    with(m.joining("d"), func(r *csr) { r.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName }),
		"a token's serving":   with(serving(t, "e"), func(r *csr) { r.Spec.Username, r.Spec.Groups = "system:bootstrap:abcdef", []string{token.Group} }),
		"a user's serving":    with(serving(t, "f"), func(r *csr) { r.Spec.Groups = []string{"system:authenticated"} }),
		"denied by hand": with(m.joining("g"), func(r *csr) {
			r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}}
		}),
	}
	csrs := c.CertificatesV1().CertificateSigningRequests()
	i := 0
	for what, r := range others {
		r.Name = fmt.Sprintf("other-%d", i)
		i++
		r.Annotations = map[string]string{"what": what, nodekey.Annotation: r.Annotations[nodekey.Annotation]}
		if _, err := csrs.Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.isApproved(c.asked(m.joining("last"))) // those before were looked at
	for _, r := range others {
		has, err := csrs.Get(t.Context(), r.Name, metav1.GetOptions{})
		if err != nil || len(has.Status.Conditions) != len(r.Status.Conditions) {
			t.Errorf("%s: %v, %v", r.Annotations["what"], has.Status.Conditions, err)
		}
	}
}

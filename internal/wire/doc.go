// Package wire has one constant: the packages below it are what an agent and a server say to
// each other beside the plain Kubernetes API. Both sides import them, so that a name, a
// path or a format is written once. In the order of the exchanges:
//
//  1. jointoken: the user gives an agent a token. Its hash lets the agent recognise
//     the cluster's CA, its id and secret are a Kubernetes bootstrap token, and a
//     server says whether it is valid.
//  2. nodekey: the agent asks for a node certificate by a CertificateSigningRequest
//     with a proof of its node password, which makes a name belong to one machine.
//  3. nodeuser: the certificate asserts the user name of the node.
//  4. clusterconfig: with the certificate it reads the settings that all nodes share.
//  5. tunnelwire: it dials a tunnel to each server, by which servers reach its
//     kubelet, and says the highest revision of the cluster's state that it has seen.
//  6. nodestatus: its Node says by which addresses it is reached.
//  7. noderights: when its node was deleted or replaced, servers tell it so.
//
// A change here has to work with the previous release on either side: servers are
// upgraded first, agents one by one.
package wire

// DefaultPort is the port of a server whose address does not name one, and on which a server
// listens unless it is told otherwise.
const DefaultPort = 6443

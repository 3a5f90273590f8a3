// Package wire has no code: the packages below it are all that an agent and a server
// say to each other beside the Kubernetes API. Either side imports them, so that a
// name, a path or a format is written once. In the order of the exchanges:
//
//  1. jointoken: the user gives an agent a token. Its hash lets the agent recognise
//     the cluster's CA, its id and secret are a Kubernetes bootstrap token, and a
//     server says whether it is valid.
//  2. nodekey: the agent asks for a node certificate by a CertificateSigningRequest
//     with a proof of its node password, which makes a name one machine's.
//  3. clusterconfig: with the certificate it reads the settings that all nodes share.
//  4. tunnelwire: it dials a tunnel to each server, by which servers reach its
//     kubelet, and says the highest revision of the cluster's state that it has seen.
//  5. noderights: when its node was deleted or replaced, servers tell it so.
//
// What is changed here has to work with the release before, on either side: servers
// are upgraded first, agents one by one.
package wire

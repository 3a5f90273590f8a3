// Package e2e holds the tests that run the real binary on whole machines, which
// package machine makes.
//
// So a test never touches the host's own network or files, and what brink leaves
// behind after `brink uninstall` fails the test: that is asserted for every node of
// every test.
//
// Most nodes keep their data below their machine's directory and are told so. One
// test installs brink as anybody would, with every path the default, on a machine
// whose /var begins empty.
//
// One node serves all scenarios that only need a cluster; each runs in a
// Kubernetes namespace of its own, several at a time. Tests of a node's life and
// of failures start machines of their own, one after another, before that.
//
// Environment: BRINK_BIN is the binary (default ../bin/brink); BRINK_E2E_LOGS is
// a directory where the output of every brink is kept.
package e2e

// Package e2e holds the tests that run the real binary on whole machines.
//
// A machine is a network, mount and UTS namespace of its own on a bridge in one
// more namespace, with private copies-on-write of /etc, /var, /usr and /opt and
// an empty /run. So a test never touches the host's own network or files, and
// what brink leaves behind after `brink uninstall` is whatever is left in those
// places: that is asserted for every node of every test.
//
// Most nodes keep their data below their machine's directory and are told so. One
// test installs brink as anybody would, with every path the default, on a machine
// whose /var begins empty. Processes of such a machine are known by its mount
// namespace and its cgroups alone: a brink of the host has the same paths.
//
// One node serves all scenarios that only need a cluster; each runs in a
// Kubernetes namespace of its own, several at a time. Tests of a node's life and
// of failures start machines of their own, one after another, before that.
//
// A janitor process outlives the tests: when they are killed it removes by id
// what they had made.
//
// Environment: BRINK_BIN is the binary (default ../bin/brink); BRINK_E2E_LOGS is
// a directory where the output of every brink is kept.
package e2e

package containerd

// WaitPinned is for the tests with a running node. These are in package
// containerd_test, as the node imports this one.
var WaitPinned = waitPinned

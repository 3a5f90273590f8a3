// Package machine makes machines for brink to run on: the harness of the
// end-to-end tests and of the benchmark. It does not import testing; functions
// return errors.
//
// A machine is a network, mount and UTS namespace of its own, with private
// copies-on-write of some of the host's system directories, empty ones in place of
// others, and an empty /run. It is plugged into a switch, which is a bridge in one
// more namespace, or alone at the end of a cable. A process that only waits keeps
// the namespaces alive: the Holder. So what runs on a machine never touches the
// host's own network or files, and what brink leaves behind after `brink uninstall`
// is whatever is left in those places (Machine.Leftovers).
//
// Most machines keep brink's data below a directory of their own. Processes are
// then known by their paths too. On a machine where brink has its default paths,
// they are known by the mount namespace and the cgroups alone: a brink of the host
// has the same paths.
//
// A janitor process outlives the program that made the machines. When that program
// is killed, the janitor removes by id what it had made.
//
// A Node is a machine with brink on it: its configuration, its starts and stops,
// its output and its uninstallation.
//
// Read in this order: machine.go, holder.go, netns.go, switch.go, trace.go and
// janitor.go (how everything is removed again), leftovers.go, node.go.
package machine

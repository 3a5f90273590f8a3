// Package runtime holds what runs pods, in the packages below it. It has no code itself.
//
//   - containerd is the container runtime, as a component of this process, with ctr,
//     containerd's own client, below it.
//   - images brings images onto a node and keeps them whole.
//   - payload is the programs that pods need, embedded in the binary: runc, the shim, the
//     CNI plugins and the pause image.
//   - testnode runs the component in tests, in a process of its own.
//
// containerd may import images, never the other way: images talks to a running containerd
// by its socket, as a command does that runs beside the node. importlaw keeps that.
//
// Read in this order: containerd/containerd.go, containerd/settings.go,
// containerd/pause_import.go, images/store.go, images/import.go, images/directory.go,
// images/recheck.go, images/registries.go, payload/payload.go.
package runtime

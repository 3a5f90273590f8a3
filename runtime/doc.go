// Package runtime has no code: it is the room of what runs pods.
//
//   - containerd is the container runtime as a component of this process, and below
//     it ctr, containerd's own client.
//   - images is what this node's images come from: archives and registries.
//   - payload is the programs that pods need, embedded in the binary: runc, the shim,
//     the CNI plugins, nft and the pause image.
//   - testnode runs the component in tests, in a process of its own.
//
// containerd may import images, never the other way: images talks to a running
// containerd by its socket, as a command does that runs beside the node.
//
// Read in this order: containerd/containerd.go, containerd/settings.go,
// containerd/pause.go, images/archives.go, images/import.go, images/registries.go,
// payload/payload.go.
package runtime

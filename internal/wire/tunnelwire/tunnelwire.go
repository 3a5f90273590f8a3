// Package tunnelwire is the protocol between the two ends of a node's tunnel, server/tunnel
// and agent/tunnel, which do not know each other.
//
// A tunnel begins as a request of the agent, GET Path over HTTP/1.1 and TLS with
// the node's certificate, that asks to upgrade to Protocol. After the answer 101
// the roles change: the agent serves HTTP/2 on the connection and the server
// sends requests, each a CONNECT whose authority is a target: Kubelet, or the
// address and port of a pod or of the node. The answer is 200 and the stream is
// the connection; or StatusRefused or StatusUnreachable and the reason in the
// body, one line of text. When one direction of a stream ends, both end.
package tunnelwire

import "net/http"

const (
	// Path is where the API server accepts tunnels.
	Path = "/brink/v1/tunnel"
	// Protocol is what an agent asks to upgrade to.
	Protocol = "brink-tunnel"
	// Revision is the header of the request with the highest revision of the
	// cluster's state that the node has seen, in decimal: a server whose disk was
	// restored from an image learns by it that it is behind.
	Revision = "Brink-Revision"
	// Kubelet is the target that stands for the node's kubelet, wherever it
	// listens.
	Kubelet = "kubelet"

	// StatusRefused answers a target that is not the node's.
	StatusRefused = http.StatusForbidden
	// StatusUnreachable answers a target that could not be dialed.
	StatusUnreachable = http.StatusBadGateway

	// MaxReason is how many bytes of a reason are read.
	MaxReason = 512

	// StreamWindow is how many bytes one stream sends before the other end has read
	// them: the memory that a reader who does not read costs. On a link of 100 ms it
	// limits a stream to 20 Mbit/s.
	StreamWindow = 256 << 10
	// ConnectionWindow is the same for all streams together. It is so large that it
	// never limits: with HTTP/2's default, four slow readers would stop all others.
	ConnectionWindow = 1 << 30
	// FrameSize is how many bytes of one stream are sent before another has its turn.
	FrameSize = 16 << 10
	// MaxStreams is how many streams one tunnel can have at once.
	MaxStreams = 4096
)

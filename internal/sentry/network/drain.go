package network

import (
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Drain waits, when no process is left, until what the container's processes have sent is taken, as far as somebody takes it: their kernel, which on a
// host goes on without them, ends with them here.
func (n *Network) Drain() {
	const most, pause = 30 * time.Second, 3 * time.Second
	begin := time.Now()
	last, sent := begin, uint64(0)
	for n.sending() {
		time.Sleep(time.Millisecond)
		now := time.Now()
		if count := n.stack.Stats().TCP.SegmentsSent.Value(); count != sent {
			last, sent = now, count
		}
		if now.Sub(last) > pause || now.Sub(begin) > most {
			return
		}
	}
}

// sending tells whether a connection has something that isn't acknowledged: its processes have ended, and it ends by that. It is among those
// that are registered until its socket is released, and later among those that are cleaned up.
func (n *Network) sending() bool {
	return slices.ContainsFunc(append(n.stack.RegisteredEndpoints(), n.stack.CleanupEndpoints()...), func(e stack.TransportEndpoint) bool {
		t, ok := e.(*tcp.Endpoint)
		return ok && slices.Contains([]tcp.EndpointState{
			tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck}, t.EndpointState())
	})
}

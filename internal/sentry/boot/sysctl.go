package boot

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/inet"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/errno"
)

// setSysctls sets what the configuration has of the kernel's settings. hull has refused those that there aren't.
func (s *Sandbox) setSysctls() error {
	list, err := wire.Sysctls(s.Spec.Linux.Sysctl)
	if err != nil {
		return &fault.Error{Field: "linux.sysctl", Kind: fault.BadSpec, Err: err}
	}
	n := s.kernel.RootNetworkNamespace().Stack()
	for _, c := range list {
		switch v := c.Numbers; c.Name {
		case wire.LocalPortRange:
			err = n.SetPortRange(uint16(v[0]), uint16(v[1]))
		case wire.TCPRecovery:
			err = n.SetTCPRecovery(inet.TCPLossRecovery(v[0]))
		case wire.TCPReceive:
			err = n.SetTCPReceiveBufferSize(inet.TCPBufferSize{Min: v[0], Default: v[1], Max: v[2]})
		case wire.TCPSend:
			err = n.SetTCPSendBufferSize(inet.TCPBufferSize{Min: v[0], Default: v[1], Max: v[2]})
		case wire.TCPSACK:
			err = n.SetTCPSACKEnabled(v[0] != 0)
		}
		if err != nil {
			return &fault.Error{Field: fmt.Sprintf("linux.sysctl %q", c.Name), Err: errno.Of(err)}
		}
	}
	return nil
}

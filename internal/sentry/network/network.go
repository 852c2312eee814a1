// Package network is that of a sandbox: a TCP/IP stack of its kernel's, with the devices, addresses and routes that the container's
// network namespace had on the host; or the host's own network. Package boot makes one for a sandbox, and passes requests about it on.
package network

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/socket/hostinet"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/sentry/uniqueid"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/link/loopback"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/raw"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/filter"
)

const loopbackNIC = 1

// Network is a stack of the kernel's. Where a container has the host's network it is nil.
type Network struct {
	stack      *stack.Stack
	configured atomic.Bool
}

// IsHost tells whether a container has the host's network: its sockets are the host's.
func IsHost(spec *specs.Spec) bool {
	return !slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
}

// HostSockets returns the host's sockets that a container has which has the host's network.
func HostSockets() *filter.Sockets {
	p := new(filter.Sockets)
	for _, t := range hostinet.AllowedSocketTypes {
		p.Types = append(p.Types, filter.Type(t))
	}
	for _, o := range hostinet.SockOpts {
		p.Options = append(p.Options, filter.Option{Level: o.Level, Name: o.Name, Get: o.AllowGet, Set: o.AllowSet})
	}
	return p
}

// NewHost makes a network namespace that passes the host's sockets on.
func NewHost(users *auth.UserNamespace) (*inet.Namespace, error) {
	host := hostinet.NewStack()
	if err := host.Configure(false); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	return inet.NewRootNamespace(host, nil, users), nil
}

// New makes a network with nothing but a loopback, and the network namespace that has it.
func New(clock tcpip.Clock, users *auth.UserNamespace, ids uniqueid.Provider) (*Network, *inet.Namespace, error) {
	n := &Network{stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              clock,
		Stats:              netstack.Metrics,
		HandleLocal:        true,
		RawFactory:         raw.EndpointFactory{},
	})}
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &moderate} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return nil, nil, fmt.Errorf("network: %v", err)
		}
	}
	if err := n.addLoopback(); err != nil {
		return nil, nil, err
	}
	return n, inet.NewRootNamespace(netstack.NewStack(n.stack, ids.UniqueID()), nil, users), nil
}

// Restored returns the network of a kernel that was restored, without what it had of devices but a loopback.
func Restored(own *netstack.Stack) (*Network, error) {
	n := &Network{stack: own.Stack}
	n.stack.SetIPTables(stack.DefaultTables(n.stack.Clock(), n.stack.InsecureRNG())) // which allow all, as in a new one
	return n, n.addLoopback()
}

func (n *Network) addLoopback() error {
	if err := n.stack.CreateNICWithOptions(loopbackNIC, loopback.New(), stack.NICOptions{Name: "lo"}); err != nil {
		return fmt.Errorf("network: %v", err)
	}
	for _, a := range []wire.Prefix{{IP: []byte{127, 0, 0, 1}, Bits: 8}, {IP: []byte{15: 1}, Bits: 128}} {
		if err := n.addAddress(loopbackNIC, a); err != nil {
			return err
		}
		n.stack.AddRoute(tcpip.Route{Destination: prefix(a).Subnet(), NIC: loopbackNIC})
	}
	return nil
}

// Take takes over what was configured in the network namespace, as it is asked to. It returns the descriptors that it
// hasn't kept.
func (n *Network) Take(r *wire.Request, fds []int) ([]int, error) {
	err := CheckLinks(r.Links)
	sockets := fds
	if r.Resolver != nil && err == nil {
		if len(fds) == 0 {
			return fds, errors.New("no tun device")
		}
		sockets = fds[:len(fds)-1]
	}
	if err == nil {
		err = n.Configure(r.Links, sockets)
	}
	if err != nil || r.Resolver == nil {
		return fds, err
	}
	return sockets, n.startResolver(*r.Resolver, fds[len(fds)-1])
}

// AlreadyConfigured is the error of who comes too late.
func AlreadyConfigured() error {
	return &fault.Error{Kind: fault.BadState, Err: errors.New("the network is configured already")}
}

// Configure takes over what was configured in a network namespace of the host.
func (n *Network) Configure(links []wire.Link, sockets []int) error {
	if n == nil || n.configured.Swap(true) {
		return AlreadyConfigured()
	}
	for i, l := range links {
		id := tcpip.NICID(loopbackNIC)
		if !l.Loopback {
			if len(sockets) == 0 {
				return fmt.Errorf("interface %q: no socket", l.Name)
			}
			id = tcpip.NICID(loopbackNIC + 1 + i)
			if err := n.addNIC(id, &l, sockets[0]); err != nil {
				return fmt.Errorf("interface %q: %w", l.Name, err)
			}
			sockets = sockets[1:]
		}
		if err := n.addLink(id, &l); err != nil {
			return fmt.Errorf("interface %q: %w", l.Name, err)
		}
	}
	return nil
}

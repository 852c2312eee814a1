package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/netdev"
	"hull/internal/sandbox/wire"
	"hull/internal/stub"
)

// networkIsFilled tells whether somebody may have configured the network namespace of a container that starts as soon as it is
// made: who prepared it before, or a hook.
func networkIsFilled(s *specs.Spec) bool {
	return s.Hooks != nil && len(s.Hooks.Prestart)+len(s.Hooks.CreateRuntime)+len(s.Hooks.CreateContainer) > 0 ||
		slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
			return ns.Type == specs.NetworkNamespace && ns.Path != ""
		})
}

// giveNetwork has the sandbox's kernel take over what is configured in its process's network namespace. It comes right before
// the container's program runs: engines configure a namespace before the container is made, by hooks, or when it is made
// and not started yet.
func giveNetwork(c *engine.Container, init engine.Init, trace func(stub.Call)) error {
	if len(network(c.Spec)) == 0 {
		return nil // it has the host's
	}
	proc := "/proc/" + strconv.Itoa(init.Pid)
	var buf [4096]byte
	devices, err := linux.ReadFile(proc+"/net/dev", buf[:])
	if err != nil {
		return &fault.Error{Step: "look at the network namespace", Err: err}
	}
	const header = 2 // lines
	if strings.Count(string(devices), "\n") <= header+1 {
		return nil // the loopback alone
	}
	netns, err := os.Open(proc + "/ns/net")
	if err != nil {
		return err
	}
	defer netns.Close()
	if err := checkOwn(netns); err != nil {
		return err
	}
	taking, err := netdev.Take(netns, trace)
	if err != nil {
		return err
	}
	defer taking.Close()
	request := wire.Request{Op: wire.Network, Container: c.ID}
	var sockets []int
	for _, i := range taking.Interfaces {
		request.Links = append(request.Links, link(&i))
		if i.Socket != nil {
			sockets = append(sockets, int(i.Socket.Fd()))
		}
	}
	switch {
	case len(sockets) == 0:
		return nil
	case len(sockets) > wire.MaxLinks:
		return &fault.Error{Kind: fault.Unsupported, Err: fmt.Errorf("not possible in sandbox isolation: %d network devices; at most %d", len(sockets), wire.MaxLinks)}
	}
	if request.Resolver, err = findResolver(proc); err != nil {
		return &fault.Error{Step: "look at the network namespace", Err: err}
	}
	if request.Resolver != nil {
		tun, err := taking.OpenTun()
		if err != nil {
			return err
		}
		defer tun.Close()
		sockets = append(sockets, int(tun.Fd()))
	}
	conn, err := dial(c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := ask(conn, request, sockets...); err != nil {
		return &fault.Error{Step: "configure the sandbox's network", Err: err}
	}
	if err := taking.Remove(); err != nil || request.Resolver == nil {
		return err
	}
	return taking.RouteTun(&netdev.Tun{Address: wire.TunAddress, Address6: wire.TunAddress6, MTU: wire.TunMTU})
}

// findResolver looks for a name server of the host's in the network namespace that the process has whose /proc directory this is.
// dockerd's listens at ports of its own choice, and has what is sent to port 53 redirected there. Nil is none.
func findResolver(proc string) (*wire.Resolver, error) {
	r := new(wire.Resolver)
	for _, table := range []struct {
		name  string
		state string // a socket's that waits for anybody
		port  *uint16
	}{{"udp", "07", &r.UDP}, {"tcp", "0A", &r.TCP}} {
		text, err := os.ReadFile(proc + "/net/" + table.name)
		if err != nil {
			return nil, err
		}
		*table.port = listensAt(string(text), wire.ResolverAddress, table.state)
	}
	if r.UDP == 0 {
		return nil, nil
	}
	return r, nil
}

// listensAt returns the port of the first socket in the text of a /proc/net/udp or tcp that is bound to the address and has the
// state; or 0.
func listensAt(text string, ip [4]byte, state string) uint16 {
	address := fmt.Sprintf("%08X", binary.NativeEndian.Uint32(ip[:]))
	for line := range strings.Lines(text) {
		f := strings.Fields(line) // sl local_address rem_address st …
		if len(f) < 4 || f[3] != state {
			continue
		}
		local, port, _ := strings.Cut(f[1], ":")
		if n, err := strconv.ParseUint(port, 16, 16); err == nil && local == address {
			return uint16(n)
		}
	}
	return 0
}

// checkOwn refuses a namespace that is that of hull or of the host: it would be without a network afterwards.
func checkOwn(netns *os.File) error {
	fi, err := netns.Stat()
	if err != nil {
		return err
	}
	if isOwn(fi, "net") {
		return &fault.Error{Field: "linux.namespaces", Kind: fault.Unsupported,
			Err: errors.New("not possible in sandbox isolation: the host's network namespace by its path, which its kernel would take over")}
	}
	return nil
}

// isOwn tells whether a namespace, by its file's name below ns, is that of hull or of the host.
func isOwn(ns os.FileInfo, name string) bool {
	return slices.ContainsFunc([]string{"thread-self", "1"}, func(pid string) bool {
		own, err := os.Stat("/proc/" + pid + "/ns/" + name)
		return err == nil && os.SameFile(ns, own)
	})
}

func link(i *netdev.Interface) wire.Link {
	l := wire.Link{Name: i.Name, Loopback: i.Loopback, MTU: i.MTU, Hardware: i.Hardware}
	for _, a := range i.Addresses {
		l.Addresses = append(l.Addresses, wire.Prefix(a))
	}
	for _, r := range i.Routes {
		l.Routes = append(l.Routes, wire.Route{To: wire.Prefix(r.To), Gateway: r.Gateway})
	}
	for _, n := range i.Neighbours {
		l.Neighbours = append(l.Neighbours, wire.Neighbour(n))
	}
	return l
}

package shim

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/engine"
	"hull/internal/linux"
	"hull/internal/sklookup"
)

// forwardLoopback carries connections with the loopback of a pod's network namespace to that of its own kernel, until the pod's first
// process has ended: containerd makes them for `kubectl port-forward`, where nobody of the pod's would hear it. A pod whose host
// can't do that, before Linux 5.9, goes without.
func (s *service) forwardLoopback(c *hull.Container, ended <-chan struct{}) {
	if c.Isolation() != hull.Sandbox || c.Spec().Annotations[kindAnnotation] != "sandbox" {
		return
	}
	l, err := listenFor(c)
	if err != nil {
		s.log.debug(fmt.Sprintf("%s: no port-forward: %v", c.ID(), err))
	}
	if l == nil {
		return
	}
	go func() {
		<-ended
		l.Close()
	}()
	go func() {
		err := forward(l.Accept, func(conn *os.File, port uint16) {
			if err := carry(c, conn, port); err != nil {
				s.log.debug(err.Error())
			}
		})
		if !errors.Is(err, os.ErrClosed) {
			s.log.error(fmt.Errorf("%s: port-forward: %w", c.ID(), err))
			l.Close() // or connections wait for nobody
		}
	}()
}

// forwards bounds the connections of a pod at a time; more wait. Each takes two descriptors of the shim's, and a thread until
// there is an answer from inside, where nobody is trusted to give one.
const forwards = 128

// forward carries what is accepted until that is an error, which it returns.
func forward(accept func() (*os.File, uint16, error), carry func(*os.File, uint16)) error {
	slots := make(chan struct{}, forwards)
	for {
		slots <- struct{}{}
		conn, port, err := accept()
		if err != nil {
			return err
		}
		go func() {
			carry(conn, port)
			<-slots
		}()
	}
}

// listenFor returns nil for a pod that has the host's network, where the loopback is the host's, too.
func listenFor(c *hull.Container) (*sklookup.Listener, error) {
	if !engine.HasNamespace(c.Spec(), specs.NetworkNamespace) {
		return nil, nil
	}
	netns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", c.Init().Pid))
	if err != nil {
		return nil, err
	}
	defer netns.Close()
	// Not even if somebody calls it the pod's.
	fi, err := netns.Stat()
	if err != nil {
		return nil, err
	}
	for _, host := range []string{"/proc/thread-self/ns/net", "/proc/1/ns/net"} { // who has fewer rights than process 1 can't see its own
		if h, err := os.Stat(host); err == nil && os.SameFile(fi, h) {
			return nil, nil
		}
	}
	return sklookup.Listen(netns)
}

// carry carries one connection. Who made it is told by a reset that nobody listens at the port: it was accepted before that could be
// known.
func carry(c *hull.Container, outside *os.File, port uint16) error {
	defer outside.Close()
	inside, err := c.Dial(port)
	if err != nil {
		return errors.Join(err, resetOnClose(outside))
	}
	defer inside.Close()
	linux.Connect(inside, outside)
	return nil
}

// resetOnClose has the peer of a connection see a reset when it is closed (socket(7), SO_LINGER).
func resetOnClose(conn *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
	return errors.Join(err, serr)
}

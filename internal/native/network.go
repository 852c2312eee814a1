package native

import (
	"errors"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// loopbackUp returns what emits that for the first calls of an init in a new network, for which the kernel takes up to 0.1 ms: by
// then hull may not know yet what is next. It is nil without a new network.
func (n *namespaces) loopbackUp(b *stub.Batch) func() {
	if n.clone&unix.CLONE_NEWNET == 0 {
		return nil
	}
	return func() { b.LoopbackUp() }
}

// sendNetNS hands the network namespace over. The stub opens it: an ordinary user who has started the stub may not look
// into /proc for what is its own.
func (c *creation) sendNetNS() error {
	b := new(stub.Batch)
	b.In("linux.namespaces")
	fd := b.Openat(stub.CWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	b.SendFDs(fd.Arg())
	b.Close(fd)
	if err := c.init.Do(b); err != nil {
		return err
	}
	files := c.init.Files()
	if len(files) != 1 {
		return &fault.Error{Field: "linux.namespaces", Err: errors.New("no network namespace was sent")}
	}
	c.NetNS(files[0])
	return nil
}

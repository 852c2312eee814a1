package sandbox

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/native"
	"hull/internal/oci"
	"hull/internal/sandbox/wire"
)

// giveTerminal makes the host's side of the container's terminal, if it has one: the slave is the sandbox's, and the master is
// told when all is prepared. release closes what was not given away.
func (c *creation) giveTerminal(jailed *engine.CreateRequest) (slave *os.File, release func(), err error) {
	if !c.Spec.Process.Terminal {
		return nil, func() {}, nil
	}
	master, slave, err := openTerminal(c.Spec.Process.ConsoleSize)
	if err != nil {
		return nil, nil, err
	}
	jailed.Stdio = [3]*os.File{slave}
	prepared := jailed.Prepared
	jailed.Prepared = func(p *engine.Process) error {
		p.Console, master = master, nil
		return prepared(p)
	}
	return slave, func() {
		slave.Close()
		master.Close() // nothing, if it was given away
	}, nil
}

// give passes a file to boot, and tells it the number in a flag.
func (c *creation) give(flag string, f *os.File) (number int) {
	c.files = append(c.files, f)
	number = 2 + len(c.files)
	if flag != "" {
		c.flags = append(c.flags, "--"+flag, strconv.Itoa(number))
	}
	return number
}

// giveLog passes the file that the kernel in the sandbox writes to.
func (c *creation) giveLog() error {
	if c.Dir == "" {
		fd, err := unix.MemfdCreate(wire.Log, unix.MFD_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("memfd_create", err)
		}
		c.log = os.NewFile(uintptr(fd), wire.Log)
		theirs, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
		}
		c.give("log-fd", os.NewFile(uintptr(theirs), wire.Log))
		return nil
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, wire.Log), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	c.give("log-fd", f)
	return nil
}

// giveSpec passes the configuration, which boot has no bundle to read from, and which must not change meanwhile.
func (c *creation) giveSpec() error {
	return c.giveSealed("spec-fd", "config.json", oci.Encode(c.inside))
}

// giveLimits passes the limits that the container's own cgroup shows. The host's holds them, with all others.
func (c *creation) giveLimits() error {
	files, _ := cgroup.Inside(c.Spec.Linux.Resources)
	for _, file := range slices.Sorted(maps.Keys(files)) {
		c.flags = append(c.flags, "--limit", file+"="+files[file])
	}
	return nil
}

// giveLinks passes devices.
func (c *creation) giveLinks() error {
	if len(c.Links) == 0 {
		return nil
	}
	var links []wire.Link
	for _, l := range c.Links {
		links = append(links, l.Link)
		c.flags = append(c.flags, "--socket", strconv.Itoa(c.give("", l.Socket)))
	}
	raw, err := json.Marshal(links)
	if err != nil {
		return err
	}
	return c.giveSealed("links-fd", "links", raw)
}

// giveSealed passes something in a file that can't change.
func (c *creation) giveSealed(flag, name string, raw []byte) error {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	c.give(flag, f)
	if _, err := f.WriteAt(raw, 0); err != nil {
		return err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	return os.NewSyscallError("fcntl F_ADD_SEALS", err)
}

// giveControl passes the socket at which other commands reach the sandbox: in the state directory, which only the caller
// may enter.
func (c *creation) giveControl() error {
	if c.Dir == "" {
		return nil // nobody finds it
	}
	f, err := listen(c.Dir)
	if err != nil {
		return err
	}
	c.give("controller-fd", f)
	return nil
}

// giveFifo passes the fifo by which Start lets the program run.
func (c *creation) giveFifo() error {
	if !c.waits() {
		return nil
	}
	var err error
	if c.fifo, err = native.MakeFifo(c.Dir); err != nil {
		return err
	}
	c.give("start-fd", c.fifo)
	return nil
}

func (c *creation) giveReport() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	c.theirs = os.NewFile(uintptr(fds[1]), "report")
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that it has deadlines
		unix.Close(fds[0])
		return os.NewSyscallError("fcntl F_SETFL", err)
	}
	c.report = os.NewFile(uintptr(fds[0]), "report")
	c.give("report-fd", c.theirs)
	return nil
}

// giveFiles passes what is mounted from the host's files.
func (c *creation) giveFiles() error {
	var err error
	if c.Overlay != nil {
		err = c.giveHostFiles()
	} else if err = c.giveRoot(); err == nil {
		err = c.giveBinds(c.inside.Mounts)
	}
	c.flags = append(c.flags, "--io-fds", strings.Join(c.trees, ","))
	return err
}

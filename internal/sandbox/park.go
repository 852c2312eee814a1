package sandbox

import (
	"context"
	"errors"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/install"
	"hull/internal/native"
	"hull/internal/pool"
	"hull/internal/sandbox/wire"
)

// Who returns what this engine starts, as a pool names it.
func (e Engine) Who() (pool.Who, error) {
	id, err := e.programID()
	return pool.Who{Release: e.Release, Program: id}, err
}

func (e Engine) programID() (string, error) {
	if e.Program != "" {
		return pool.ProgramID(e.Program)
	}
	return install.Find("look for the program hull-sandbox", "hull-sandbox", pool.ProgramID)
}

// parkedSpec is what is known of a container that may come: it has a network of its own.
func parkedSpec() *specs.Spec {
	return &specs.Spec{Version: specs.Version, Process: &specs.Process{}, Linux: &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}}
}

// Park starts a sandbox that waits for a container.
func (e Engine) Park(ctx context.Context, trace, warn func(string)) (_ *pool.Parked, err error) {
	who, err := e.Who() // first: what was replaced since is another then
	if err != nil {
		return nil, err
	}
	program, err := e.open()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "pool")
	_ = unix.SetNonblock(pair[0], true) // or it would have no deadline; the pool takes that back when it gives it away
	conn := os.NewFile(uintptr(pair[0]), "parked sandbox")
	defer theirs.Close()
	c := &creation{CreateRequest: &engine.CreateRequest{Container: engine.Container{Spec: parkedSpec()}, Trace: trace, Warn: warn}}
	defer c.close()
	var group *cgroup.Group
	defer func() {
		if err == nil {
			return
		}
		conn.Close()
		if group != nil {
			err = errors.Join(err, group.Destroy(context.WithoutCancel(ctx)))
		}
	}()
	if err := c.giveLog(); err != nil {
		return nil, err
	}
	log := c.files[0]
	if group, err = cgroup.CreateParked(); err != nil {
		return nil, err
	}
	const first = 3 // the program is executed, and closed by that
	args := []string{"hull-sandbox", wire.Park, "--release", e.Release + " " + wire.Version,
		"--pool-fd", strconv.Itoa(first + 1), "--log-fd", strconv.Itoa(first + 2)}
	p, err := native.Engine{}.Create(ctx, &engine.CreateRequest{
		Container: engine.Container{ID: "pool", Bundle: "/", Spec: jail(c.Spec, args), Cgroup: group},
		IO:        engine.IO{Extra: []*os.File{program, theirs, log}},
		Program:   1, NoDev: true, Overlay: emptyRoot(), Trace: trace, Warn: warn,
	})
	if err != nil {
		return nil, explain(err)
	}
	theirs.Close()
	if err := c.hear(ctx, &patientReader{File: conn, pid: p.Pid, timeout: bootTimeout}, readPacket); err != nil {
		_, _ = kill(p)
		return nil, err
	}
	gift, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		_, _ = kill(p)
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &pool.Parked{PidFD: p.PidFD, Gift: os.NewFile(uintptr(gift), "pidfd"), Conn: conn, Cgroup: group, Who: who}, nil
}

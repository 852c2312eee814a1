package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/linux"
)

func portForwardCommand() *Command {
	return &Command{
		Name:    "port-forward",
		Own:     true,
		Summary: "lead a TCP port of the host to one in a container",
		Usage:   "CONTAINER-ID [LOCAL:]PORT",
		Long: `Listens on port LOCAL of the host's 127.0.0.1, PORT if it is not given, and 0 for one that is free, and connects whoever connects there with PORT of the container's own loopback, until it is interrupted. For a look at a container's program, whatever network the container has; programs have networks for their business.

The address is printed once it can be connected to.`,
		Examples: `hull port-forward web1 8080:80`,
		Args:     arity{2, 2},
		Run: func(env *Env, args []string) error {
			local, port, err := parseForward(args[1])
			if err != nil {
				return statusError{exitUsage, env.usage("port-forward", err)}
			}
			ctx, signals := catchSignals()
			c, err := env.container("port-forward", args[0])
			if err != nil {
				return err
			}
			if err := forward(ctx, env, c, local, port); err != nil {
				return signals.explain(ctx, "port-forward", args[0], inOp("port-forward", args[0], err))
			}
			return nil
		},
	}
}

// parseForward reads [LOCAL:]PORT.
func parseForward(s string) (local, port uint16, err error) {
	l, p, both := strings.Cut(s, ":")
	if !both {
		p = l
	}
	n, err := strconv.ParseUint(p, 10, 16)
	m, lerr := strconv.ParseUint(l, 10, 16)
	if err != nil || lerr != nil || n == 0 {
		return 0, 0, fmt.Errorf("%q: want PORT or LOCAL:PORT, numbers up to 65535", s)
	}
	return uint16(m), uint16(n), nil
}

// forward serves connections until ctx ends.
func forward(ctx context.Context, env *Env, c *hull.Container, local, port uint16) error {
	state, err := c.State()
	if err != nil {
		return err
	}
	if state.Status == hull.Stopped {
		return errors.New("the container has stopped")
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(local), Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fmt.Errorf("listen on 127.0.0.1:%d: %w", local, err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return os.NewSyscallError("listen", err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	if _, err := fmt.Fprintf(env.Stdout, "127.0.0.1:%d\n", sa.(*unix.SockaddrInet4).Port); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.Shutdown(fd, unix.SHUT_RD) }) // which ends accept
	defer stop()
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED):
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE):
			time.Sleep(50 * time.Millisecond) // until a connection ends, as others that there are must not for it
		case err != nil:
			return os.NewSyscallError("accept4", err)
		default:
			go serveForward(env, c, os.NewFile(uintptr(conn), "connection"), port)
		}
	}
}

// serveForward carries one connection.
func serveForward(env *Env, c *hull.Container, outside *os.File, port uint16) {
	defer outside.Close()
	inside, err := c.Dial(port)
	if err != nil {
		env.log.warn(err.Error())
		return
	}
	defer inside.Close()
	linux.Connect(inside, outside)
}

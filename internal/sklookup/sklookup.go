// Package sklookup has one socket take all TCP connections with the loopback of a network namespace, whatever their port.
//
// A program of the kernel's does that (BPF_PROG_TYPE_SK_LOOKUP, Linux 5.9), which is asked for the socket of a connection that is to
// be made. Packets take no other way than before, as they would with rules of a firewall, and no address changes: the port is that of
// the connection's own address. All of it is held by descriptors, so it ends with the process, however that ends.
package sklookup

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Listener is the socket and what sends connections to it. It keeps the namespace.
type Listener struct{ socket, link *os.File }

// loopback is the address whose connections are taken. One who tries ::1, too, tries this one first.
var loopback = [4]byte{127, 0, 0, 1}

// Listen takes the connections in a network namespace.
func Listen(netns *os.File) (_ *Listener, err error) {
	l := new(Listener)
	if l.socket, err = listenIn(netns); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.socket.Close())
		}
	}()
	sockets, err := linux.SocketMap(l.socket)
	if err != nil {
		return nil, err
	}
	defer sockets.Close() // the program keeps it
	prog, err := linux.LoadSocketLookup(program(int32(sockets.Fd())))
	if err != nil {
		return nil, err
	}
	defer prog.Close() // the link keeps it
	if l.link, err = linux.LinkSocketLookup(netns, prog); err != nil {
		return nil, err
	}
	return l, nil
}

// listenIn makes a socket that listens in a network namespace.
func listenIn(netns *os.File) (socket *os.File, err error) {
	apart(func() {
		if err = os.NewSyscallError("setns", unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET)); err == nil {
			socket, err = listen()
		}
	})
	return socket, err
}

// apart runs f on a thread that ends then, so that nobody else ever has the namespace. It isn't the process's first one, which Go can't
// have end: that would keep the namespace, and /proc/PID/ns would tell of it as the process's own.
func apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			apart(f) // which gets another, since this one is taken
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}

func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback})); err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "loopback"), nil
}

// Fields of struct bpf_sk_lookup, and helpers, of linux/bpf.h.
const (
	fieldFamily   = 8
	fieldProtocol = 12
	fieldLocalIP4 = 40

	helperMapLookup = 1
	helperRelease   = 86
	helperAssign    = 124
)

// program gives connections with the loopback the socket that a map has.
func program(sockets int32) []linux.BPFInsn {
	const (
		loadWord  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
		storeWord = unix.BPF_ST | unix.BPF_MEM | unix.BPF_W
		move      = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
		set       = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
		add       = unix.BPF_ALU64 | unix.BPF_ADD | unix.BPF_K
		loadMap   = unix.BPF_LD | unix.BPF_IMM | unix.BPF_DW
		unequal   = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
		equal     = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		call      = unix.BPF_JMP | unix.BPF_CALL
		exit      = unix.BPF_JMP | unix.BPF_EXIT
	)
	regs := func(to, from uint8) uint8 { return from<<4 | to }
	const pass = 1          // SK_PASS: with the socket that was assigned, or the one that would be found without
	const pseudoMapFD = 1   // BPF_PSEUDO_MAP_FD
	const end = int16(21)   // the index of the last two
	const stack = uint8(10) // R10
	address := int32(binary.NativeEndian.Uint32(loopback[:]))
	return []linux.BPFInsn{
		0:  {Op: move, Regs: regs(6, 1)},
		1:  {Op: loadWord, Regs: regs(2, 6), Off: fieldProtocol},
		2:  {Op: unequal, Regs: 2, Off: end - 3, Imm: unix.IPPROTO_TCP},
		3:  {Op: loadWord, Regs: regs(2, 6), Off: fieldFamily},
		4:  {Op: unequal, Regs: 2, Off: end - 5, Imm: unix.AF_INET},
		5:  {Op: loadWord, Regs: regs(2, 6), Off: fieldLocalIP4},
		6:  {Op: unequal, Regs: 2, Off: end - 7, Imm: address},
		7:  {Op: storeWord, Regs: stack, Off: -4},
		8:  {Op: move, Regs: regs(2, stack)},
		9:  {Op: add, Regs: 2, Imm: -4},
		10: {Op: loadMap, Regs: regs(1, pseudoMapFD), Imm: sockets},
		11: {},
		12: {Op: call, Imm: helperMapLookup},
		13: {Op: equal, Regs: 0, Off: end - 14},
		14: {Op: move, Regs: regs(7, 0)},
		15: {Op: move, Regs: regs(1, 6)},
		16: {Op: move, Regs: regs(2, 7)},
		17: {Op: set, Regs: 3},
		18: {Op: call, Imm: helperAssign},
		19: {Op: move, Regs: regs(1, 7)},
		20: {Op: call, Imm: helperRelease},
		21: {Op: set, Regs: 0, Imm: pass},
		22: {Op: exit},
	}
}

// Accept waits for a connection, a stream socket that doesn't block, and returns it with the port that it was made with.
func (l *Listener) Accept() (*os.File, uint16, error) {
	raw, err := l.socket.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	for {
		var fd int
		var acceptErr error
		err := raw.Read(func(s uintptr) bool {
			fd, _, acceptErr = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return acceptErr != unix.EAGAIN
		})
		switch {
		case err != nil:
			return nil, 0, os.ErrClosed // there is no deadline
		case acceptErr == nil:
			sa, err := unix.Getsockname(fd)
			if err != nil {
				unix.Close(fd)
				return nil, 0, os.NewSyscallError("getsockname", err)
			}
			return os.NewFile(uintptr(fd), "connection"), uint16(sa.(*unix.SockaddrInet4).Port), nil
		case errors.Is(acceptErr, unix.EINTR) || errors.Is(acceptErr, unix.ECONNABORTED):
		case slices.Contains([]error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM}, acceptErr):
			time.Sleep(50 * time.Millisecond) // until something else ends
		default:
			return nil, 0, os.NewSyscallError("accept4", acceptErr)
		}
	}
}

// Close ends it; a call of Accept returns os.ErrClosed. Connections stay.
func (l *Listener) Close() error { return errors.Join(l.link.Close(), l.socket.Close()) }

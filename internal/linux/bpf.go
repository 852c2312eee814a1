package linux

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BPFInsn is an eBPF instruction, struct bpf_insn of linux/bpf.h on a little-endian machine.
type BPFInsn struct {
	Op   uint8
	Regs uint8 // destination in the low half, source in the high one
	Off  int16
	Imm  int32
}

// bpf is bpf(2). The kernel takes a shorter attribute as one with zeros after it.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for tries := 0; ; tries++ {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		switch {
		case errno == 0:
			return int(r), nil
		case errno == unix.EINTR, errno == unix.EAGAIN && tries < 30: // the verifier gives way to signals
			continue
		}
		return -1, os.NewSyscallError("bpf", errno)
	}
}

// LoadCgroupDevice loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE (Linux 4.15).
//
// Before Linux 5.11 programs count against the user's locked memory, of all processes together, and EPERM is the answer
// to too much: then the process's limit is lifted for as long as the load takes, if it may be.
func LoadCgroupDevice(insns []BPFInsn) (*os.File, error) {
	return loadProgram(unix.BPF_PROG_TYPE_CGROUP_DEVICE, 0, insns)
}

func loadProgram(progType, attachType uint32, insns []BPFInsn) (*os.File, error) {
	f, err := tryLoadProgram(progType, attachType, insns)
	if !errors.Is(err, unix.EPERM) {
		return f, err
	}
	var old unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old) != nil {
		return nil, err
	}
	free := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &free) != nil {
		return nil, err
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	return tryLoadProgram(progType, attachType, insns)
}

func tryLoadProgram(progType, attachType uint32, insns []BPFInsn) (*os.File, error) {
	license := [...]byte{'A', 'p', 'a', 'c', 'h', 'e', 0}
	log := make([]byte, 4096)
	// The head of union bpf_attr for BPF_PROG_LOAD.
	attr := struct {
		progType, insnCount uint32
		insns, license      uint64
		logLevel, logSize   uint32
		log                 uint64
		_                   [24]byte // kern_version, prog_flags, prog_name
		_, attachType       uint32   // prog_ifindex, expected_attach_type
	}{
		progType:   progType,
		insnCount:  uint32(len(insns)),
		attachType: attachType,
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&insns[0])
	pin.Pin(&license)
	pin.Pin(&log[0])
	attr.insns = uint64(uintptr(unsafe.Pointer(&insns[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&license)))
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EACCES) {
		// Once more, for the verifier's words.
		attr.logLevel, attr.logSize = 1, uint32(len(log))
		attr.log = uint64(uintptr(unsafe.Pointer(&log[0])))
		if fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
			err = fmt.Errorf("%w: %s", err, unix.ByteSliceToString(log))
		}
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "bpf-prog"), nil
}

// LoadSocketLookup loads a program of type BPF_PROG_TYPE_SK_LOOKUP (Linux 5.9).
func LoadSocketLookup(insns []BPFInsn) (*os.File, error) {
	return loadProgram(unix.BPF_PROG_TYPE_SK_LOOKUP, unix.BPF_SK_LOOKUP, insns)
}

// LinkSocketLookup attaches such a program to a network namespace, until the link is closed (Linux 5.9).
func LinkSocketLookup(netns, prog *os.File) (*os.File, error) {
	attr := struct{ prog, target, kind, flags uint32 }{prog: uint32(prog.Fd()), target: uint32(netns.Fd()), kind: unix.BPF_SK_LOOKUP}
	fd, err := bpf(unix.BPF_LINK_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(netns)
	runtime.KeepAlive(prog)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "bpf-link"), nil
}

// SocketMap makes a map of type BPF_MAP_TYPE_SOCKMAP with one socket, which its program finds at 0; a listening one from Linux 5.7 on.
func SocketMap(socket *os.File) (*os.File, error) {
	create := struct{ mapType, keySize, valueSize, maxEntries uint32 }{unix.BPF_MAP_TYPE_SOCKMAP, 4, 8, 1}
	fd, err := bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&create), unsafe.Sizeof(create))
	if err != nil {
		return nil, err
	}
	m := os.NewFile(uintptr(fd), "bpf-map")
	key, value := new(uint32), new(uint64)
	*value = uint64(socket.Fd())
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(key)
	pin.Pin(value)
	update := struct {
		fd, _      uint32
		key, value uint64
		flags      uint64
	}{fd: uint32(fd), key: uint64(uintptr(unsafe.Pointer(key))), value: uint64(uintptr(unsafe.Pointer(value)))}
	_, err = bpf(unix.BPF_MAP_UPDATE_ELEM, unsafe.Pointer(&update), unsafe.Sizeof(update))
	runtime.KeepAlive(socket)
	if err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// AttachCgroupDevice attaches prog to a v2 cgroup, beside what is attached to it or, with replace (Linux 5.6), instead
// of one of these.
func AttachCgroupDevice(cgroup, prog, replace *os.File) error {
	attr := attach{
		target: uint32(cgroup.Fd()),
		prog:   uint32(prog.Fd()),
		kind:   unix.BPF_CGROUP_DEVICE,
		flags:  unix.BPF_F_ALLOW_MULTI,
	}
	if replace != nil {
		attr.flags |= unix.BPF_F_REPLACE
		attr.replace = uint32(replace.Fd())
	}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(cgroup)
	runtime.KeepAlive(prog)
	runtime.KeepAlive(replace)
	return err
}

// DetachCgroupDevice detaches prog from a v2 cgroup.
func DetachCgroupDevice(cgroup, prog *os.File) error {
	attr := attach{target: uint32(cgroup.Fd()), prog: uint32(prog.Fd()), kind: unix.BPF_CGROUP_DEVICE}
	_, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(cgroup)
	runtime.KeepAlive(prog)
	return err
}

// attach is the part of union bpf_attr for BPF_PROG_ATTACH and BPF_PROG_DETACH.
type attach struct{ target, prog, kind, flags, replace uint32 }

// CgroupDevicePrograms returns the device programs attached to a v2 cgroup itself. Those that a security module keeps
// from the caller are left out. The caller closes them.
func CgroupDevicePrograms(cgroup *os.File) ([]*os.File, error) {
	ids := make([]uint32, 64) // the most that a cgroup takes, BPF_CGROUP_MAX_PROGS of linux/bpf-cgroup.h
	// Linux 6.17 to 7.1 write the revision whatever size is given, so the attribute has to reach up to it.
	attr := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count, _                         uint32
		_, _, _, _                       uint64
	}{target: uint32(cgroup.Fd()), kind: unix.BPF_CGROUP_DEVICE, count: uint32(len(ids))}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	attr.ids = uint64(uintptr(unsafe.Pointer(&ids[0])))
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(cgroup)
	if err != nil {
		return nil, err
	}
	var progs []*os.File
	for _, id := range ids[:attr.count] {
		byID := struct{ id uint32 }{id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&byID), unsafe.Sizeof(byID))
		switch {
		case err == nil:
			progs = append(progs, os.NewFile(uintptr(fd), "bpf-prog"))
		case !errors.Is(err, os.ErrPermission) && !errors.Is(err, os.ErrNotExist):
			for _, p := range progs {
				p.Close()
			}
			return nil, err
		}
	}
	return progs, nil
}

package stub

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interpreterStart returns the address of the stub's machine code, in image_GOARCH.s. It is data here, never called.
func interpreterStart() unsafe.Pointer

const (
	textAddr  = 0x00400000 // where the image has its headers, and behind them its code
	headers   = 64 + 3*56
	batchAddr = 0x10000000 // where it keeps the batch; BASE in image_GOARCH.s
	batchMax  = 16 << 20   // largest batch: execve's arguments are at most 6 MiB (execve(2), "Limits on size")
)

const (
	sentinel    = "hull.endhull.end" // stands behind the last instruction
	handlerMark = "hull.sighull.sig" // stands before the signal handler
)

func code() []byte {
	start := interpreterStart()
	const max = 4096
	text := unsafe.Slice((*byte)(start), max)
	for i := 0; i+len(sentinel) <= max; i++ {
		if string(text[i:i+len(sentinel)]) == sentinel {
			return text[:i]
		}
	}
	panic("bug: the stub's code has no end")
}

// handler returns where the signal handler is in a stub.
func handler() uint64 {
	i := bytes.Index(code(), []byte(handlerMark))
	if i < 0 {
		panic("bug: the stub's code has no signal handler")
	}
	return textAddr + headers + uint64(i+len(handlerMark))
}

// elf returns a static executable of one page: an ELF header, three program headers and the interpreter.
// The header's e_flags, which means nothing to Linux on these machines, holds the number of descriptors to keep.
func elf(fds int) []byte {
	const (
		rx = 5
		rw = 6
	)
	text := code()
	size := uint64(headers + len(text))
	b := make([]byte, 0, size)
	le := binary.LittleEndian
	b = append(b, "\x7fELF\x02\x01\x01"...)
	b = append(b, make([]byte, 9)...)
	b = le.AppendUint16(b, 2) // ET_EXEC
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, textAddr+headers) // entry point
	b = le.AppendUint64(b, 64)               // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, uint32(fds)) // e_flags, at FDS in image_GOARCH.s
	for _, n := range []uint16{64, 56, 3, 64, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	segment := func(kind, flags uint32, offset, addr, filesz, memsz, align uint64) {
		b = le.AppendUint32(b, kind)
		b = le.AppendUint32(b, flags)
		for _, n := range []uint64{offset, addr, addr, filesz, memsz, align} {
			b = le.AppendUint64(b, n)
		}
	}
	const load, stack = 1, 0x6474e551
	segment(load, rx, 0, textAddr, size, size, 0x10000)
	segment(load, rw, 0, batchAddr, 0, batchMax, 0x10000)
	segment(stack, rw, 0, 0, 0, 0, 16)
	return append(b, text...)
}

// newImage returns an executable file that holds the interpreter and nothing else. Its stub keeps the first fds
// descriptors only. A container that gets hold of it through /proc/PID/exe can neither change what others run nor learn
// anything from it.
func newImage(fds int) (*os.File, error) {
	f, err := newMemfd()
	if err != nil {
		return newTmpfile(elf(fds), err)
	}
	if _, err := f.Write(elf(fds)); err != nil {
		f.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	return f, nil
}

func newMemfd() (*os.File, error) {
	const name = "hull-stub"
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	// MFD_EXEC (6.3) states the intent, which vm.memfd_noexec=1 wants; kernels before answer EINVAL.
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// newTmpfile is for hosts that forbid executable memory files, with vm.memfd_noexec=2: a file without a name on a file
// system that programs may be executed from. Each stub has one of its own, and nobody else can open it. why says what is
// wrong with memory files, for the error.
func newTmpfile(content []byte, why error) (*os.File, error) {
	for _, dir := range []string{os.TempDir(), "/dev/shm", "/var/tmp", "/run"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Flags&unix.ST_NOEXEC != 0 {
			continue
		}
		w, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE|unix.O_EXCL, 0o700)
		if err != nil {
			continue
		}
		_, err = w.Write(content)
		if err != nil {
			w.Close()
			continue
		}
		// A file that is open for writing can't be executed (ETXTBSY).
		r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()))
		w.Close()
		if err == nil {
			return r, nil
		}
	}
	return nil, fmt.Errorf("no place for the stub: %w; and no directory for temporary files that allows programs", why)
}

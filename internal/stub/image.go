package stub

import (
	"bytes"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"hull/internal/elf"
)

// interpreterStart returns the address of the stub's machine code, in image_GOARCH.s. It is data here, never called.
func interpreterStart() unsafe.Pointer

const (
	batchAddr = 0x10000000 // where the image keeps the batch; BASE in image_GOARCH.s
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
	return elf.TextAt + uint64(i+len(handlerMark))
}

// image returns the program. The number of descriptors that it keeps is in its flags, at FDS in image_GOARCH.s.
func image(fds int) []byte {
	p := elf.Program{Text: code(), Zeros: elf.Zeros{Addr: batchAddr, Size: batchMax}, Flags: uint32(fds)}
	return p.File()
}

// newImage returns an executable file that holds the interpreter and nothing else. Its stub keeps the first fds
// descriptors only. A container that gets hold of it through /proc/PID/exe can neither change what others run nor learn
// anything from it.
func newImage(fds int) (*os.File, error) {
	f, err := newMemfd()
	if err != nil {
		return newTmpfile(image(fds), err)
	}
	if _, err := f.Write(image(fds)); err != nil {
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

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cat copies files, or standard input, to standard output.
func cat(files []string) error {
	if len(files) == 0 {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// chmod sets the permissions of a file, given in octal.
func chmod(args []string) error {
	mode, err := strconv.ParseUint(args[0], 8, 32)
	if err != nil {
		return err
	}
	return syscall.Chmod(args[1], uint32(mode))
}

// write replaces a file's content; the file is made if it isn't there.
func write(args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(args[1]); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// grow makes a file larger by four megabytes a hundred times a second, until a signal ends it.
func grow(args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for more := make([]byte, 4<<20); ; time.Sleep(10 * time.Millisecond) {
		if _, err := f.Write(more); err != nil {
			return err
		}
	}
}

// mmap maps a file that it reads, writes to it as another open file, and prints what it sees in its memory then.
func mmap(args []string) error {
	r, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer r.Close()
	memory, err := unix.Mmap(int(r.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer unix.Munmap(memory)
	w, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.WriteAt([]byte("written"), 0); err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n", unix.ByteSliceToString(memory))
	return err
}

// ls lists the names in a directory.
func ls(args []string) error {
	entries, err := os.ReadDir(args[0])
	if err != nil {
		return err
	}
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return nil
}

// mkdir makes a directory.
func mkdir(args []string) error { return os.Mkdir(args[0], 0o755) }

// nest makes N directories, each with as long a name as there can be and in the one before.
func nest(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := os.Chdir(args[0]); err != nil {
		return err
	}
	name := strings.Repeat("x", unix.NAME_MAX)
	for range n {
		if err := os.Mkdir(name, 0o755); err != nil {
			return err
		}
		if err := unix.Chdir(name); err != nil {
			return err
		}
	}
	return nil
}

// stat prints: PATH TYPE MODE UID GID SIZE, and MAJOR MINOR for a device. It doesn't follow symbolic links.
func stat(paths []string) error {
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		fmt.Printf("%s %s %04o %d %d %d", path, fileType(st.Mode), st.Mode&0o7777, st.Uid, st.Gid, st.Size)
		if t := st.Mode & unix.S_IFMT; t == unix.S_IFCHR || t == unix.S_IFBLK {
			fmt.Printf(" %d %d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		fmt.Println()
	}
	return nil
}

func fileType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFLNK:
		return "link"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return "unknown"
}

func readlink(args []string) error {
	dest, err := os.Readlink(args[0])
	if err == nil {
		fmt.Println(dest)
	}
	return err
}

// mounts prints the lines of mountinfo, all or those of one mount point.
func mounts(args []string) error {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if len(args) == 0 {
		_, err = os.Stdout.Write(content)
		return err
	}
	found := false
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == args[0] {
			fmt.Print(line)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("%s is not a mount point", args[0])
	}
	return nil
}

// sysctl prints the value of a kernel parameter.
func sysctl(args []string) error {
	return cat([]string{"/proc/sys/" + strings.ReplaceAll(args[0], ".", "/")})
}

// listen makes a socket in a directory, connects to it and prints what has come by it: "hello".
func listen(args []string) error {
	at := &net.UnixAddr{Name: args[0], Net: "unix"}
	l, err := net.ListenUnix("unix", at)
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.DialUnix("unix", nil, at)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		return err
	}
	_, err = io.WriteString(s, "hello\n")
	s.Close()
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, c)
	return err
}

// serve makes a socket in a directory, and says "hello" to the first who connects with it.
func serve(args []string) error {
	network := "unix"
	if _, err := netip.ParseAddrPort(args[0]); err == nil {
		network = "tcp"
	}
	l, err := net.Listen(network, args[0])
	if err != nil {
		return err
	}
	defer l.Close()
	s, err := l.Accept()
	if err != nil {
		return err
	}
	defer s.Close()
	_, err = io.WriteString(s, "hello\n")
	return err
}

// connect connects a stream socket and prints "connected".
func connect(args []string) error {
	var (
		family  int
		address unix.Sockaddr
	)
	switch args[0] {
	case "unix":
		family, address = unix.AF_UNIX, &unix.SockaddrUnix{Name: args[1]}
	case "tcp":
		ap, err := netip.ParseAddrPort(args[1])
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		if ap.Addr().Is4() {
			family, address = unix.AF_INET, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
		} else {
			family, address = unix.AF_INET6, &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}
		}
	default:
		return fmt.Errorf("%w: %q is neither unix nor tcp", errUsage, args[0])
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	for {
		err := unix.Connect(fd, address)
		if err == nil {
			fmt.Println("connected")
			return nil
		}
		if err != syscall.EINTR {
			return os.NewSyscallError("connect", err)
		}
	}
}

// iface prints what a socket is told about a network device: its number, MTU and the length of its queue.
func iface(args []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	for _, q := range []struct {
		name    string
		request uint
	}{{"index", unix.SIOCGIFINDEX}, {"mtu", unix.SIOCGIFMTU}, {"queue", unix.SIOCGIFTXQLEN}} {
		r, err := unix.NewIfreq(args[0])
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, q.request, r); err != nil {
			return os.NewSyscallError("ioctl "+q.name, err)
		}
		fmt.Println(q.name, r.Uint32())
	}
	return nil
}

// resolve asks the name server of Docker's user-defined networks and prints the addresses that a name has.
func resolve(args []string) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, args[0], "127.0.0.11:53")
	}}
	addresses, err := r.LookupHost(context.Background(), args[1])
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(addresses, " "))
	return nil
}

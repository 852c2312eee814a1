package systemd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	busName      = "org.freedesktop.DBus"
	busPath      = "/org/freedesktop/DBus"
	managerName  = "org.freedesktop.systemd1"
	managerPath  = "/org/freedesktop/systemd1"
	managerIface = "org.freedesktop.systemd1.Manager"

	// timeout bounds a call whose context has no deadline.
	timeout = 30 * time.Second
)

// ErrNoManager says that no service manager could be reached.
var ErrNoManager = errors.New("no service manager to talk to")

// CallError is what a manager answered instead of doing what it was asked.
type CallError struct {
	Name    string // "org.freedesktop.systemd1.UnitExists"
	Message string
}

func (e *CallError) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Message
}

// IsCall tells whether err is a manager's answer of a name, without what is before its last dot.
func IsCall(err error, name string) bool {
	var c *CallError
	return errors.As(err, &c) && strings.HasSuffix(c.Name, "."+name)
}

// Conn is a connection to a manager. It is not for concurrent use.
type Conn struct {
	f       *os.File
	r       *bufio.Reader
	serial  uint32
	to      string // the manager's name on a bus, "" on its private socket
	removed map[ObjectPath]string
}

// address is where a manager may be reached.
type address struct {
	path string // of the socket; an abstract one begins with "@"
	bus  bool   // a message bus, on which the manager has a name
}

// addresses returns where to try: the bus first, since it is the documented way, then the manager's own socket, which
// is there without a bus daemon.
func addresses(user bool) []address {
	var as []address
	add := func(spec string) {
		for _, p := range socketPaths(spec) {
			as = append(as, address{p, true})
		}
	}
	if !user {
		add(os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"))
		return append(as, address{"/run/dbus/system_bus_socket", true},
			address{"/run/systemd/private", false})
	}
	add(os.Getenv("DBUS_SESSION_BUS_ADDRESS"))
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		as = append(as, address{dir + "/bus", true}, address{dir + "/systemd/private", false})
	}
	return as
}

// socketPaths returns the Unix sockets of a D-Bus address, "unix:path=/run/bus,guid=00;unix:abstract=/tmp/x".
func socketPaths(spec string) []string {
	var paths []string
	for a := range strings.SplitSeq(spec, ";") {
		transport, options, _ := strings.Cut(a, ":")
		if transport != "unix" {
			continue
		}
		for o := range strings.SplitSeq(options, ",") {
			switch key, v, _ := strings.Cut(o, "="); key {
			case "path":
				paths = append(paths, unescape(v))
			case "abstract":
				paths = append(paths, "@"+unescape(v))
			}
		}
	}
	return paths
}

// unescape undoes the %XX of an address.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '%' && i+2 < len(s) {
			if n, err := fmt.Sscanf(s[i+1:i+3], "%02x", &c); n == 1 && err == nil {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Dial connects to the system's manager, or to the caller's own with user.
func Dial(ctx context.Context, user bool) (*Conn, error) {
	noManager := ErrNoManager
	for _, a := range addresses(user) {
		c, err := dial(ctx, a)
		if err == nil {
			return c, nil
		}
		noManager = fmt.Errorf("%w; %s: %v", noManager, a.path, err)
	}
	return nil, noManager
}

// Expect returns ErrNoManager where there is no socket that Dial could connect to. It costs less than a connection.
func Expect(user bool) error {
	noManager := ErrNoManager
	for _, a := range addresses(user) {
		if strings.HasPrefix(a.path, "@") {
			return nil
		}
		_, err := os.Stat(a.path)
		if err == nil {
			return nil
		}
		noManager = fmt.Errorf("%w; %v", noManager, err)
	}
	return noManager
}

func dial(ctx context.Context, a address) (*Conn, error) {
	f, err := connect(ctx, a.path)
	if err != nil {
		return nil, err
	}
	c := &Conn{f: f, r: bufio.NewReader(f), removed: make(map[ObjectPath]string)}
	if a.bus {
		c.to = managerName
	}
	if err := c.hello(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// connect waits for a socket whose queue is full: many containers start at once.
func connect(ctx context.Context, path string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	wait := time.Millisecond
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
		select {
		case <-ctx.Done():
			unix.Close(fd)
			return nil, ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, 100*time.Millisecond)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.f.Close() }

// deadline applies ctx to what follows.
func (c *Conn) deadline(ctx context.Context) error {
	t, ok := ctx.Deadline()
	if !ok {
		t = time.Now().Add(timeout)
	}
	return c.f.SetDeadline(t)
}

// hello authenticates by the socket's credentials. The empty identity leaves it to the other side to see who that is:
// in a user namespace the caller doesn't know its own uid as others number it.
func (c *Conn) hello(ctx context.Context) error {
	if err := c.deadline(ctx); err != nil {
		return err
	}
	if _, err := io.WriteString(c.f, "\x00AUTH EXTERNAL\r\n"); err != nil {
		return err
	}
	if err := c.expect("DATA"); err != nil {
		return err
	}
	if _, err := io.WriteString(c.f, "DATA\r\n"); err != nil {
		return err
	}
	if err := c.expect("OK"); err != nil {
		return err
	}
	if _, err := io.WriteString(c.f, "BEGIN\r\n"); err != nil {
		return err
	}
	if c.to == "" {
		return nil
	}
	_, err := c.callTo(ctx, busName, busPath, busName, "Hello")
	return err
}

// expect reads a line of the authentication.
func (c *Conn) expect(word string) error {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if got, _, _ := strings.Cut(strings.TrimSpace(string(line)), " "); got != word {
		return fmt.Errorf("authentication: answer %q, want %s", strings.TrimSpace(string(line)), word)
	}
	return nil
}

// call calls a method of the manager and returns the reply's body.
func (c *Conn) call(ctx context.Context, member string, args ...any) (*decoder, error) {
	return c.callTo(ctx, c.to, managerPath, managerIface, member, args...)
}

func (c *Conn) callTo(ctx context.Context, to, path, iface, member string, args ...any) (*decoder, error) {
	if err := c.deadline(ctx); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.serial++
	if _, err := c.f.Write(encodeCall(c.serial, to, path, iface, member, args...)); err != nil {
		return nil, fmt.Errorf("%s: %w", member, err)
	}
	for {
		m, err := c.receive()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", member, err)
		}
		if m.replyTo != c.serial {
			continue
		}
		switch d := (&decoder{buf: m.body}); m.kind {
		case typeReturn:
			return d, nil
		case typeError:
			// The first argument is a text, if there is any.
			return nil, fmt.Errorf("%s: %w", member, &CallError{m.errorName, d.string()})
		}
	}
}

// receive reads a message, and keeps what it says about jobs.
func (c *Conn) receive() (*message, error) {
	m, err := readMessage(c.r)
	if err == nil && m.kind == typeSignal && m.member == "JobRemoved" {
		d := decoder{buf: m.body}
		d.uint32()
		job := ObjectPath(d.string())
		d.string() // the unit
		c.removed[job] = d.string()
		err = d.err
	}
	return m, err
}

// subscribe asks for signals about jobs.
func (c *Conn) subscribe(ctx context.Context) error {
	if c.to != "" {
		rule := "type='signal',sender='" + managerName + "',interface='" + managerIface + "',member='JobRemoved'"
		if _, err := c.callTo(ctx, busName, busPath, busName, "AddMatch", rule); err != nil {
			return err
		}
	}
	_, err := c.call(ctx, "Subscribe")
	if IsCall(err, "AlreadySubscribed") {
		return nil
	}
	return err
}

// wait waits for the end of a job and returns its result, "done" if it succeeded.
func (c *Conn) wait(ctx context.Context, job ObjectPath) (string, error) {
	if err := c.deadline(ctx); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { c.f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if result, ok := c.removed[job]; ok {
			delete(c.removed, job)
			return result, nil
		}
		if _, err := c.receive(); err != nil {
			return "", err
		}
	}
}

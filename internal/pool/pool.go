// Package pool keeps sandboxes that were started before anybody needs them, and gives each to one who does.
//
// A Server listens at a socket in the state directory of those whose containers it serves. What it keeps is parked: a process in
// its jail and its cgroup, with a kernel that has neither a container nor seen one, waiting at a connection for being told of it. To
// take one is to be given the other end of that connection:
//
//	hull                                     server                              hull-sandbox park
//	  connects, take, who it is   ────────>
//	                              <────────    connection, pidfd, cgroup
//	  adopts the cgroup, records the container
//	  what the container is       ────────────────────────────────────────────>  is a sandbox as any from now on
//	  kept                        ────────>    forgets it, but for reaping it
//
// Who may take: the user whom the server runs as, whom the kernel names at either end; the directory and the mode of the socket keep
// others away before. A hull of another release, or one that would start another hull-sandbox, is refused.
//
// Whoever is killed leaves no process: a parked sandbox ends with the last descriptor of its connection's other end. The server has
// that until it gives it away, and from then on the one who takes it has. If that one ends before it has said kept, the server
// kills the sandbox. Cgroups of a server that was killed are swept by the next one, and by those that look for a server in vain.
package pool

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/linux"
	"hull/internal/sandbox/wire"
)

// SocketName is that of the socket in a state directory. No container has an id with this character.
const SocketName = "@pool"

// timeout bounds how long one side waits for the other: it is there, or stopped.
const timeout = 2 * time.Second

// The words that begin messages.
const (
	wordTake   = "take"   // then the protocol's version, the release, the program
	wordStatus = "status" // then the version
	wordKept   = "kept"
	wordOK     = "ok"
	wordNo     = "no" // then why
)

// version is that of the messages.
const version = "1"

// ErrNone is that there is no server.
var ErrNone = errors.New("there is no pool")

// Refusal is why a server that is there gives nothing.
type Refusal struct{ Reason string }

func (r Refusal) Error() string { return r.Reason }

// Who says who takes: what it takes must be what it would start itself.
type Who struct {
	Release string
	Program string // see ProgramID
}

// ProgramID names what a file holds, as long as nobody changes it.
func ProgramID(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	id := ""
	for _, n := range []int64{int64(st.Dev), int64(st.Ino), st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec} {
		id += strconv.FormatInt(n, 36) + "."
	}
	return id, nil
}

// Taken is a parked sandbox that is the caller's. Close ends it, unless it was told of a container and has reported.
type Taken struct {
	Pid    int
	PidFD  *os.File // Go's poller waits for it; who takes it over sets nil
	Conn   *os.File // to say what the container is
	Cgroup cgroup.State

	server *os.File
}

// Take takes a sandbox from the server of a state directory.
func Take(dir string, who Who) (*Taken, error) {
	conn, err := connect(dir)
	if err != nil {
		return nil, err
	}
	words, fds, err := ask(conn, 2, wordTake, version, who.Release, who.Program)
	if err != nil {
		conn.Close()
		return nil, err
	}
	t := &Taken{server: conn}
	if len(fds) == 2 {
		if t.Pid, err = pidOf(fds[1]); err == nil {
			t.Cgroup, err = decodeCgroup(words)
		}
	}
	if len(fds) != 2 || err != nil {
		closeAll(fds)
		conn.Close()
		return nil, Refusal{"the pool's answer is malformed"}
	}
	_ = unix.SetNonblock(fds[1], true) // for Go's poller: whoever closes it ends the wait for it
	t.Conn, t.PidFD = os.NewFile(uintptr(fds[0]), "parked sandbox"), os.NewFile(uintptr(fds[1]), "pidfd")
	return t, nil
}

// pidOf returns the pid, in the caller's pid namespace, of the process that a pidfd is of (proc_pid_fdinfo(5)).
func pidOf(pidfd int) (int, error) {
	var buf [512]byte
	b, err := linux.ReadFile("/proc/self/fdinfo/"+strconv.Itoa(pidfd), buf[:])
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "\nPid:")
	line, _, _ := strings.Cut(rest, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err == nil && pid <= 0 {
		err = errors.New("the process has ended, or is in another pid namespace")
	}
	return pid, err
}

// Kept tells the server that the sandbox is a container's now, which is recorded.
func (t *Taken) Kept() error {
	return wire.SendWords(int(t.server.Fd()), []string{wordKept})
}

// Close gives up the connections, and the pidfd if nobody has taken it over.
func (t *Taken) Close() {
	for _, f := range []*os.File{t.Conn, t.server, t.PidFD} {
		if f != nil {
			f.Close()
		}
	}
}

// Status is what a server has.
type Status struct {
	Size   int `json:"size"`   // how many it keeps ready
	Parked int `json:"parked"` // how many there are now
	Taken  int `json:"taken"`  // how many were taken since it started
}

// Ask asks the server of a state directory for its status.
func Ask(dir string) (s Status, err error) {
	conn, err := connect(dir)
	if err != nil {
		return s, err
	}
	defer conn.Close()
	words, fds, err := ask(conn, 0, wordStatus, version)
	closeAll(fds)
	if err != nil {
		return s, err
	}
	numbers := []*int{&s.Size, &s.Parked, &s.Taken}
	if len(words) != len(numbers) {
		return s, Refusal{"the pool's answer is malformed"}
	}
	for i, p := range numbers {
		if *p, err = strconv.Atoi(words[i]); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Exists tells whether there is, or was, a server.
func Exists(dir string) bool {
	return unix.Faccessat(unix.AT_FDCWD, dir+"/"+SocketName, unix.F_OK, 0) == nil
}

// connect returns a connection with the server of a directory, if that is the caller's and in its cgroup namespace.
func connect(dir string) (_ *os.File, err error) {
	d, err := openDir(dir)
	if err != nil {
		return nil, ErrNone
	}
	defer d.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	conn := os.NewFile(uintptr(fd), SocketName)
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	wait := unix.NsecToTimeval(int64(timeout))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &wait); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	switch err := unix.Connect(fd, address(d)); err {
	case nil:
	case unix.ENOENT:
		return nil, ErrNone
	case unix.ECONNREFUSED:
		cgroup.SweepParked() // its server was killed
		return nil, ErrNone
	default:
		return nil, Refusal{"connect with the pool: " + err.Error()}
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt SO_PEERCRED", err)
	}
	if int(peer.Uid) != os.Geteuid() {
		return nil, Refusal{"the pool is another user's: uid " + strconv.Itoa(int(peer.Uid))}
	}
	for _, ns := range []string{"user", "cgroup"} {
		theirs, terr := os.Stat("/proc/" + strconv.Itoa(int(peer.Pid)) + "/ns/" + ns)
		ours, oerr := os.Stat("/proc/self/ns/" + ns)
		if terr != nil || oerr != nil || !os.SameFile(theirs, ours) {
			return nil, Refusal{"the pool is in another " + ns + " namespace"}
		}
	}
	return conn, nil
}

// ask sends words, and returns those that come back behind ok.
func ask(conn *os.File, most int, words ...string) (answer []string, fds []int, err error) {
	err = wire.SendWords(int(conn.Fd()), words)
	if err == nil {
		answer, fds, err = wire.ReceiveWords(int(conn.Fd()), most)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil, nil, Refusal{"the pool does not answer"}
	case err != nil:
		return nil, nil, Refusal{"the pool: " + err.Error()}
	case answer[0] == wordOK:
		return answer[1:], fds, nil
	}
	closeAll(fds)
	if answer[0] == wordNo && len(answer) == 2 {
		return nil, nil, Refusal{wire.Printable(answer[1])}
	}
	return nil, nil, Refusal{"the pool's answer is malformed"}
}

// encodeCgroup makes words of where a cgroup is.
func encodeCgroup(s cgroup.State) []string {
	words := []string{s.Mode}
	for controller, path := range s.Paths {
		words = append(words, controller, path)
	}
	return words
}

func decodeCgroup(words []string) (s cgroup.State, err error) {
	if len(words)%2 != 1 {
		return s, errors.New("no cgroup")
	}
	s = cgroup.State{Mode: words[0], Paths: make(map[string]string)}
	for i := 1; i < len(words); i += 2 {
		s.Paths[words[i]] = words[i+1]
	}
	_, err = cgroup.Open(s) // which looks at the paths
	return s, err
}

func openDir(dir string) (*os.File, error) {
	return os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// address is that of the socket: by way of the directory's descriptor, since its path may be longer than an address can be.
func address(dir *os.File) *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/" + SocketName}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/sandbox/image"
)

// Op is what a Request asks for.
type Op string

const (
	// Exec makes a process; descriptors: its standard streams. When the Reply is there, Go lets it run, an end of file does
	// away with it. Then the connection is that of the process: numbers of signals go one way, its End comes back.
	Exec Op = "exec"
	// Signal sends a signal to all processes.
	Signal Op = "signal"
	// Processes lists the processes.
	Processes Op = "ps"
	// Pause stops the programs, Resume lets them go on.
	Pause  Op = "pause"
	Resume Op = "resume"
	// Network configures the network, before the container's program runs; descriptors: the packet socket of each link but the
	// loopback, then, with a Resolver, the tun device.
	Network Op = "network"
	// Dial connects a descriptor, a stream socket, with a TCP port of the loopback.
	Dial Op = "dial"
	// Debug writes what Show says to the descriptor beside it, and sets what is logged.
	Debug Op = "debug"
	// Wait waits for the end of a process; the Reply comes then, unless the connection ends before.
	Wait Op = "wait"
	// Checkpoint saves the kernel; descriptors: the files of the image. After the Reply nothing in the sandbox runs, unless Leave
	// says so, until Go or the end of the connection.
	Checkpoint Op = "checkpoint"
	// Restore has a sandbox that was started with --restore-fds, and may have got its Network since, go on where Image was saved.
	Restore Op = "restore"
	// Count tells what the container's processes use.
	Count Op = "count"
	// Create makes another container in the sandbox; descriptors: its configuration in a sealed memfd, a file to lock while it is
	// paused, its standard streams, or the one of its terminal, the root and the sources of bind mounts. What follows is as with
	// Exec, but that Go is answered by itself: then the program runs.
	Create Op = "create"
	// Update sets Limits of a container: the first, or one that Create has made.
	Update Op = "update"
	// Remove ends a container that Create has made, if there is one, and answers when nothing of it is left.
	Remove Op = "remove"
)

// What Debug can show.
const (
	Stacks = "stacks" // of all goroutines of the kernel
	Memory = "memory" // how much there is of which kind, in JSON
	Files  = "files"  // that processes have open

	// Profiles of the kernel itself, in the form of pprof: of a time, or, of the heap and the goroutines, of now.
	CPUProfile       = "cpu"
	HeapProfile      = "heap"
	GoroutineProfile = "goroutine"
	BlockProfile     = "block" // where goroutines wait for each other
	MutexProfile     = "mutex" // where they make others wait
)

// The bounds of the time of a profile.
const (
	MinProfile = time.Millisecond
	MaxProfile = 10 * time.Minute
)

// Request is what hull asks for.
type Request struct {
	Op        Op
	Container string         // the id of the one that it is about
	Process   *specs.Process `json:",omitempty"` // of Exec
	Path      string         `json:",omitempty"` // of its program, if that isn't what Process.Args[0] names
	// Same says of each of Exec's streams which one is the same open file: itself, or one before it.
	Same  [3]int `json:",omitempty"`
	Extra int    `json:",omitempty"` // how many of Exec's descriptors come behind the streams: 3 and so on of the process
	// Attached has Exec's process run without Go, and go on when the connection ends.
	Attached bool `json:",omitempty"`

	Signal int     `json:",omitempty"`
	Member *Member `json:",omitempty"` // of Create
	Links  []Link  `json:",omitempty"` // of Network
	Port   uint16  `json:",omitempty"` // of Dial

	Limits map[string]string `json:",omitempty"` // of Update, see Member

	PID  int  `json:",omitempty"` // of Wait
	Root bool `json:",omitempty"` // PID is one of the whole sandbox, not of the container alone

	Resolver *Resolver `json:",omitempty"` // of Network

	Leave bool            `json:",omitempty"` // of Checkpoint
	Image *image.Contents `json:",omitempty"` // of Restore

	Show     string `json:",omitempty"` // of Debug
	LogLevel string `json:",omitempty"` // warning, info or debug; or "", as it is
	// Duration is that of a profile.
	Duration time.Duration `json:",omitempty"`
	// Trace says of which system calls is logged what programs ask for and get: TraceOff of none, TraceAll of all, else their names
	// with commas between; or "", as it is.
	Trace string `json:",omitempty"`
}

// Member is what another container in a sandbox is made of, beside its configuration.
type Member struct {
	Bundle string
	// PIDs is the container whose pid namespace it has. Empty means one of its own.
	PIDs string `json:",omitempty"`
	// Below says of each of its files where it is mounted, if it was found below the one before it, or is "".
	Below []string
	// Limits are those that its kernel holds, and of the first container shows: what is written to which file of a cgroup of version 2.
	Limits map[string]string `json:",omitempty"`
}

const (
	// MemberFiles is how many descriptors come before the standard streams of a Member.
	MemberFiles = 2
	// MaxFiles is how many descriptors a message has at most; the kernel takes 253 (SCM_MAX_FD).
	MaxFiles = 240
	// MaxMembers is how many containers there are in a sandbox beside the first.
	MaxMembers = 256
)

// What a Request's Trace can be beside names.
const (
	TraceOff = "off"
	TraceAll = "all"
)

// MaxLinks is how many devices a network has at most, beside the loopback.
const MaxLinks = 32

// Link is a device of a network. Addresses are in network byte order, 4 or 16 bytes.
type Link struct {
	Name       string
	Loopback   bool        `json:",omitempty"`
	MTU        uint32      `json:",omitempty"`
	Hardware   []byte      `json:",omitempty"`
	Addresses  []Prefix    `json:",omitempty"`
	Routes     []Route     `json:",omitempty"`
	Neighbours []Neighbour `json:",omitempty"`
}

// Resolver is a name server of the host's that works in the network namespace, at an address of its loopback: the ports that it
// listens on, or 0. A tun device leads to it, see package netdev.
type Resolver struct{ UDP, TCP uint16 }

var (
	// ResolverAddress is where that of Docker's user-defined networks listens.
	ResolverAddress = [4]byte{127, 0, 0, 11}
	// TunAddress and TunPeer are the two ends of the tun device, which are nobody's addresses elsewhere: 192.0.0.8 is the
	// dummy address of RFC 7600, and the one after it is reserved (RFC 6890).
	TunAddress = [4]byte{192, 0, 0, 8}
	TunPeer    = [4]byte{192, 0, 0, 9}
	// TunAddress6 is of the dummy prefix of RFC 9780.
	TunAddress6 = [16]byte{0: 1, 7: 1, 15: 8}
)

// TunMTU is the MTU of the tun device.
const TunMTU = 1500

// Prefix is an address with the length of its network's.
type Prefix struct {
	IP   []byte
	Bits int
}

// Route is a way to a network, by a gateway unless that is empty.
type Route struct {
	To      Prefix
	Gateway []byte `json:",omitempty"`
}

// Neighbour is where an address is that nobody answers for.
type Neighbour struct{ IP, Hardware []byte }

// Reply is what comes back.
type Reply struct {
	Failure   *Failure        `json:",omitempty"`
	Processes []Process       `json:",omitempty"`
	Usage     *Usage          `json:",omitempty"` // of Count
	Memory    *MemoryKinds    `json:",omitempty"` // of Count
	Status    *uint32         `json:",omitempty"` // of Wait: as wait(2) has it
	Saved     *image.Contents `json:",omitempty"` // of Checkpoint
}

// Usage is what the processes of a container use, without the kernel that they run on.
type Usage struct {
	CPU struct {
		User   uint64 `json:"user"` // nanoseconds, of processes that have ended, too
		Kernel uint64 `json:"kernel"`
	} `json:"cpu"`
	Memory uint64 `json:"memory"` // bytes, with files that are in memory
	Pids   uint64 `json:"pids"`   // threads
}

// MemoryKinds is what the memory of a sandbox is used for, in bytes, named as in runsc's usage. What its kernel itself needs of
// the host is not in it.
type MemoryKinds struct {
	Unknown   uint64
	System    uint64 // of its kernel, for programs, as pipes
	Anonymous uint64
	PageCache uint64
	Mapped    uint64 // files of the host
	Tmpfs     uint64
	Total     uint64
}

// Process is a process in a sandbox.
type Process struct {
	UID, PID, PPID, CPU       int
	STime, TTY, Time, Command string
}

// Go is the message that lets a process run.
const Go = "go"

// End is how a process has ended, as a stub reads it: two numbers of 32 bits.
type End struct {
	Code   uint32 // the exit status, or 128 and the number of the signal
	Signal uint32 // or 0; with ForMemory if the limit of memory of a container that has joined others has ended it
}

// ForMemory is in an End's Signal, which is SIGKILL then.
const ForMemory = 1 << 31

// EndSize is that of an End.
const EndSize = 8

// SendEnd sends an End.
func SendEnd(conn int, e End) error {
	return SendBytes(conn, string(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, e.Code), e.Signal)))
}

// ReceiveEnd receives an End.
func ReceiveEnd(conn int) (End, error) {
	b, _, err := ReceiveBytes(conn, EndSize, 0)
	switch {
	case err != nil:
		return End{}, err
	case len(b) != EndSize:
		return End{}, fmt.Errorf("the end of a process in %d bytes, not %d", len(b), EndSize)
	}
	return End{Code: binary.LittleEndian.Uint32(b), Signal: binary.LittleEndian.Uint32(b[4:])}, nil
}

// SendBytes sends a message as it is.
func SendBytes(conn int, b string) error {
	return retry(func() error { return unix.Sendmsg(conn, []byte(b), nil, nil, unix.MSG_NOSIGNAL) })
}

// SignalSize is that of a signal's number.
const SignalSize = 4

// packet is the size of all packets of a message but the last, which is smaller: what a socket's buffer has room for, whatever
// the host's net.core.wmem_default.
const packet = 64 << 10

// Send sends a message, with descriptors.
func Send(conn int, v any, fds ...int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return SendJSON(conn, b, fds...)
}

// SendJSON is Send for a message that is JSON already.
func SendJSON(conn int, b []byte, fds ...int) error {
	if len(b) > MaxMessage {
		return fmt.Errorf("a message of %d bytes, at most %d are possible", len(b), MaxMessage)
	}
	if len(b)%packet == 0 {
		b = append(b, ' ') // an empty packet would be the end of the connection
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for p := range slices.Chunk(b, packet) {
		if err := retry(func() error { return unix.Sendmsg(conn, p, rights, nil, unix.MSG_NOSIGNAL) }); err != nil {
			return err
		}
		rights = nil
	}
	return nil
}

// empty is a message that says nothing, as most replies do. It is not worth the third of a millisecond for which a program that
// has done nothing with encoding/json yet is busy with its first.
const empty = "{}"

// Receive receives a message, with at most that many descriptors: others, and those of a message that is none, are closed. A
// timeout of the socket, if it has one, is that of the whole message.
func Receive(conn int, v any, most int) (fds []int, err error) {
	patience, err := patienceOf(conn)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	message, fds, err := ReceiveBytes(conn, packet, most)
	for last := len(message); err == nil && last == packet; {
		if patience > 0 {
			if err = await(conn, deadline); err != nil {
				break
			}
		}
		var b []byte
		b, _, err = ReceiveBytes(conn, packet, 0)
		message, last = append(message, b...), len(b)
		if err == nil && len(message) > MaxMessage+packet {
			err = errors.New("a message that is too long")
		}
	}
	if err == nil && string(message) != empty {
		err = json.Unmarshal(message, v)
	}
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	return fds, nil
}

// patienceOf returns the timeout that a socket has for receiving; or 0.
func patienceOf(conn int) (time.Duration, error) {
	var wait unix.Timeval
	size := uint32(unsafe.Sizeof(wait))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(conn), unix.SOL_SOCKET, unix.SO_RCVTIMEO, uintptr(unsafe.Pointer(&wait)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("getsockopt SO_RCVTIMEO", errno)
	}
	return time.Duration(wait.Nano()), nil
}

// await waits until there is something to be received, or returns EAGAIN, as the socket's own timeout does.
func await(conn int, deadline time.Time) error {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return unix.EAGAIN
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(conn), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 || err != nil && err != unix.EINTR {
			return err
		}
	}
}

// ErrEnd is the end of a connection.
var ErrEnd = errors.New("the other side has ended")

// ReceiveBytes receives a message as it is.
func ReceiveBytes(conn, size, most int) (b []byte, fds []int, err error) {
	b = make([]byte, size)
	rights := make([]byte, unix.CmsgSpace(4*max(most, 1)))
	var n, oobn, flags int
	err = retry(func() (err error) {
		n, oobn, flags, _, err = unix.Recvmsg(conn, b, rights, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:oobn])
	for i := range messages {
		more, perr := unix.ParseUnixRights(&messages[i])
		fds, err = append(fds, more...), errors.Join(err, perr)
	}
	switch {
	case err != nil:
	case n == 0:
		err = ErrEnd
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a message that is too long, or has too many descriptors")
	case len(fds) > most:
		err = fmt.Errorf("%d descriptors, at most %d are expected", len(fds), most)
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return b[:n], fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

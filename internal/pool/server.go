package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/stub"
)

// Parked is a sandbox that waits for a container: a child of this program.
type Parked struct {
	PidFD  *os.File
	Gift   *os.File // another pidfd, for who takes it: flags are those of an open file, and whether it blocks is one
	Conn   *os.File // our end of its connection
	Cgroup *cgroup.Group
	Who    Who

	taken bool // with Server.mu
}

// Config says what a server keeps.
type Config struct {
	Dir  string // the state directory
	Size int    // how many are kept
	// Boot makes one more.
	Boot func(ctx context.Context) (*Parked, error)
	// Who returns what one that Boot makes now would be.
	Who func() (Who, error)
	// Ready is called when as many are parked as there are to be, for the first time; or nil.
	Ready func()
	Warn  func(string)
}

// MaxSize bounds how many are kept.
const MaxSize = 256

const (
	// quiet is how long nobody may have taken one before others are made: what makes them would keep the processors from those that
	// were taken, which is what they are for. With none left it is only as long as a start takes, since whoever comes then starts one
	// of its own.
	quiet      = 50 * time.Millisecond
	quietEmpty = 20 * time.Millisecond
	// maxPause bounds the pause after one that could not be made.
	maxPause = 30 * time.Second
)

// Server keeps sandboxes parked.
type Server struct {
	Config
	listener *os.File
	path     string

	mu     sync.Mutex
	parked []*Parked
	last   time.Time     // when one was taken
	count  int           // how many were
	change chan struct{} // tells of one that is gone
	all    sync.WaitGroup
}

// Serve keeps sandboxes ready until ctx is done, and then ends those that nobody has taken.
func Serve(ctx context.Context, c Config) error {
	s := &Server{Config: c, change: make(chan struct{}, 1)}
	if err := s.listen(); err != nil {
		return err
	}
	cgroup.SweepParked()
	ctx, cancel := context.WithCancel(ctx)
	s.all.Go(func() {
		<-ctx.Done()
		os.Remove(s.path)
		s.listener.Close()
	})
	s.all.Go(func() { s.fill(ctx) })
	err := s.accept(ctx)
	cancel()
	s.all.Wait()
	return err
}

// listen makes the socket. While one server looks whether there is another, no third one does: the directory is locked.
func (s *Server) listen() (err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return &fault.Error{Step: "state directory", Err: err}
	}
	lock, err := os.Open(s.Dir)
	if err != nil {
		return &fault.Error{Step: "state directory", Err: err}
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return &fault.Error{Step: "lock the state directory", Err: err}
	}
	s.path = filepath.Join(s.Dir, SocketName)
	if status, err := Ask(s.Dir); !errors.Is(err, ErrNone) {
		if err == nil {
			err = fmt.Errorf("there is one already, with %d of %d ready", status.Parked, status.Size)
		}
		return &fault.Error{Kind: fault.Exist, Step: "pool of " + s.Dir, Err: err}
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return &fault.Error{Step: "remove the socket of a pool that has ended", Err: err}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err = unix.Fchmod(fd, 0o600); err == nil { // of the file that bind makes
		if err = unix.Bind(fd, address(lock)); err == nil {
			err = unix.Listen(fd, 64)
		}
	}
	if err != nil {
		unix.Close(fd)
		return &fault.Error{Step: "listen at " + s.path, Err: err}
	}
	s.listener = os.NewFile(uintptr(fd), s.path)
	return nil
}

func (s *Server) accept(ctx context.Context) error {
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var conn int
		var aerr error
		err := raw.Read(func(fd uintptr) bool {
			conn, _, aerr = unix.Accept4(int(fd), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return aerr != unix.EAGAIN
		})
		switch {
		case ctx.Err() != nil:
			if err == nil && aerr == nil {
				unix.Close(conn)
			}
			return nil
		case err != nil:
			return err
		case aerr == nil:
			s.all.Go(func() { s.serve(ctx, os.NewFile(uintptr(conn), SocketName)) })
		case aerr == unix.EMFILE || aerr == unix.ENFILE || aerr == unix.ENOBUFS || aerr == unix.ENOMEM:
			time.Sleep(50 * time.Millisecond)
		case aerr != unix.EINTR && aerr != unix.ECONNABORTED:
			return os.NewSyscallError("accept", aerr)
		}
	}
}

// serve answers who connects. It waits for nobody once ctx is done.
func (s *Server) serve(ctx context.Context, conn *os.File) {
	defer conn.Close()
	if conn.SetReadDeadline(time.Now().Add(timeout)) != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })
	words, err := receive(conn)
	stop()
	if err != nil {
		return
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { s.answer(ctx, conn, int(fd), words) })
}

// receive receives words without descriptors.
func receive(conn *os.File) (words []string, err error) {
	err = wire.Await(conn, func(fd int) (err error) {
		words, _, err = wire.ReceiveWords(fd, 0)
		return err
	})
	return words, err
}

// answer answers a message. What it sends are words that a socket has room for.
func (s *Server) answer(ctx context.Context, conn *os.File, fd int, words []string) {
	// After the message, which unread would make the answer a reset.
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	switch {
	case err != nil || int(peer.Uid) != os.Geteuid():
		_ = wire.SendWords(fd, []string{wordNo, "the pool is another user's"})
	case words[0] == wordStatus && len(words) == 2 && words[1] == version:
		s.mu.Lock()
		answer := []string{wordOK, strconv.Itoa(s.Size), strconv.Itoa(len(s.parked)), strconv.Itoa(s.count)}
		s.mu.Unlock()
		_ = wire.SendWords(fd, answer)
	case words[0] == wordTake && len(words) == 4 && words[1] == version:
		p, why := s.choose(Who{Release: words[2], Program: words[3]})
		if p == nil {
			_ = wire.SendWords(fd, []string{wordNo, why})
			return
		}
		s.give(ctx, conn, fd, p)
	default:
		_ = wire.SendWords(fd, []string{wordNo, "the pool is of another release"})
	}
}

// choose takes a sandbox out of those that are parked, or says why there is none.
func (s *Server) choose(who Who) (p *Parked, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.parked) == 0 {
		return nil, "the pool is empty"
	}
	i := slices.IndexFunc(s.parked, func(p *Parked) bool { return p.Who == who })
	if i < 0 {
		if s.parked[0].Who.Release != who.Release {
			return nil, fmt.Sprintf("the pool is of release %s, this hull of %s", s.parked[0].Who.Release, who.Release)
		}
		return nil, "the pool has sandboxes of another hull-sandbox than this hull starts"
	}
	p = s.parked[i]
	p.taken = true
	s.parked = slices.Delete(s.parked, i, i+1)
	s.last = time.Now()
	s.count++
	s.tell()
	return p, ""
}

// give gives a sandbox away, and waits until it is kept: what is not is ended. Of a server that ends, who has taken it has it alone.
func (s *Server) give(ctx context.Context, conn *os.File, fd int, p *Parked) {
	answer := append([]string{wordOK}, encodeCgroup(p.Cgroup.State())...)
	// Who has it waits in system calls until there is room for all that it says.
	err := unix.SetNonblock(int(p.Conn.Fd()), false)
	if err == nil {
		err = wire.SendWords(fd, answer, int(p.Conn.Fd()), int(p.Gift.Fd()))
	}
	p.Conn.Close() // from now on its end is that of who has taken it
	p.Gift.Close()
	kept := false
	// What comes between may take its time: hooks, above all.
	if err == nil && conn.SetReadDeadline(time.Time{}) == nil {
		defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now()) })()
		words, err := receive(conn)
		kept = err == nil && words[0] == wordKept || errors.Is(err, os.ErrDeadlineExceeded)
	}
	if kept {
		p.Cgroup.Release()
		return
	}
	p.kill()
	_ = p.Cgroup.Destroy(context.Background()) // of which nothing may be left, since it was another's
}

// kill ends a sandbox, unless it has ended: then watch may just close its pidfd.
func (p *Parked) kill() {
	if raw, err := p.PidFD.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	}
}

// tell has fill look again. It is called with mu.
func (s *Server) tell() {
	select {
	case s.change <- struct{}{}:
	default:
	}
}

// fill makes sandboxes until there are as many as there are to be, whenever there are less.
func (s *Server) fill(ctx context.Context) {
	pause, ready := time.Duration(0), s.Ready
	for ctx.Err() == nil {
		s.discardOthers()
		s.mu.Lock()
		n, since := len(s.parked), time.Since(s.last)
		s.mu.Unlock()
		wait := quiet - since
		if n == 0 {
			wait = quietEmpty - since
		}
		switch {
		case n >= s.Size:
			if ready != nil {
				ready()
				ready = nil
			}
			select {
			case <-ctx.Done():
			case <-s.change:
			}
			continue
		case wait > 0:
			sleep(ctx, wait)
			continue
		}
		p, err := s.Boot(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.Warn("a sandbox for the pool: " + err.Error())
			}
			pause = min(max(2*pause, 100*time.Millisecond), maxPause)
			sleep(ctx, pause)
			continue
		}
		pause = 0
		s.mu.Lock()
		s.parked = append(s.parked, p)
		s.mu.Unlock()
		s.all.Go(func() { s.watch(ctx, p) })
	}
}

// discardOthers ends those that nobody would take any more: hull-sandbox was replaced.
func (s *Server) discardOthers() {
	who, err := s.Who()
	if err != nil {
		return // Boot says why
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = slices.DeleteFunc(s.parked, func(p *Parked) bool {
		if p.Who != who {
			p.kill()
		}
		return p.Who != who
	})
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// watch reaps a sandbox, however it ends. Who serves no more leaves those that were taken to the system.
func (s *Server) watch(ctx context.Context, p *Parked) {
	ended := make(chan struct{})
	go func() {
		_, _ = stub.WaitPidFD(p.PidFD)
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.mu.Lock()
		taken := p.taken
		s.mu.Unlock()
		if taken {
			return
		}
		p.kill()
		<-ended
	}
	s.mu.Lock()
	i := slices.Index(s.parked, p)
	if i >= 0 {
		s.parked = slices.Delete(s.parked, i, i+1)
		s.tell()
	}
	taken := p.taken
	s.mu.Unlock()
	p.PidFD.Close()
	if taken {
		return
	}
	p.Conn.Close()
	p.Gift.Close()
	if i >= 0 && ctx.Err() == nil {
		s.Warn("a sandbox of the pool has ended by itself")
	}
	if err := p.Cgroup.Destroy(context.Background()); err != nil {
		s.Warn(err.Error())
	}
}

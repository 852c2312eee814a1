// Package store keeps what hull knows of containers in a directory each:
//
//	ROOT/ID             flock(2)ed by a command that changes the container
//	ROOT/ID/state       the record, replaced by rename
//	ROOT/ID/state.copy  what of it delete needs, once there is an init: for a record that is damaged
//	ROOT/ID/config.json the configuration it was created with
//
// and files of the engine's. The directory itself is what is locked, not a file in it: waiting for the lock makes nothing
// that could keep who has it from removing the directory.
//
// Only what the kernel can't be asked for is kept: whether a container runs or is paused is
// never read from here. A directory without a record is what a command that was killed has left; Remove takes it away.
//
// The directories are the caller's alone (mode 0700): they name processes and cgroups that delete kills and removes.
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
)

// Store is a directory of containers.
type Store struct{ Root string }

// Dir is the directory of one container.
type Dir struct {
	ID   string
	Path string
}

// idMax is the length of a file name (NAME_MAX, limits.h), which an id becomes.
const idMax = 255

// CheckID refuses ids that are no single file name or that need quoting.
func CheckID(id string) error {
	bad := func(why string) error {
		return &fault.Error{Kind: fault.BadUsage, Err: fmt.Errorf("container id %.40q: %s", id, why)}
	}
	switch {
	case id == "":
		return &fault.Error{Kind: fault.BadUsage, Err: errors.New("container id is empty")}
	case len(id) > idMax:
		return bad(fmt.Sprintf("%d characters, at most %d are possible", len(id), idMax))
	case id == "." || id == "..":
		return bad("names a directory")
	}
	for _, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '+', c == '-', c == '.':
		default:
			return bad(fmt.Sprintf("character %q; letters, digits and _ + - . are possible", c))
		}
	}
	return nil
}

// Create makes the directory of a new container, locked.
func (s Store) Create(id string) (*Dir, *Lock, error) {
	if err := CheckID(id); err != nil {
		return nil, nil, err
	}
	d := &Dir{ID: id, Path: filepath.Join(s.Root, id)}
	for {
		if err := s.mkdir(d.Path); err != nil {
			return nil, nil, err
		}
		lock, err := d.Lock(context.Background())
		if err == nil {
			return d, lock, nil
		}
		if errors.Is(err, fault.NotExist) {
			continue // a forced deletion has had it first, and what is there now is somebody else's
		}
		os.Remove(d.Path) // if it is empty
		return nil, nil, err
	}
}

func (s Store) mkdir(path string) error {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(s.Root, 0o700); err != nil {
			return s.hint(err)
		}
		err = os.Mkdir(path, 0o700)
	}
	if errors.Is(err, os.ErrExist) {
		return taken(path)
	}
	if err != nil {
		return s.hint(err)
	}
	return nil
}

func taken(path string) error {
	return &fault.Error{Kind: fault.Exist, Err: fmt.Errorf("%w: %s", fault.Exist, path)}
}

// Taken returns the error that Create would have now if there is a container of that id, else nil.
func (s Store) Taken(id string) error {
	d, err := s.Open(id)
	if err != nil {
		return nil
	}
	return taken(d.Path)
}

// Open returns the directory of a container.
func (s Store) Open(id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	d := &Dir{ID: id, Path: filepath.Join(s.Root, id)}
	if fi, err := os.Lstat(d.Path); err != nil || !fi.IsDir() {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, s.hint(err)
		}
		return nil, notExist()
	}
	return d, nil
}

func notExist() error { return &fault.Error{Kind: fault.NotExist} }

// Dirs returns the directories of all containers, ordered by id.
func (s Store) Dirs() ([]Dir, error) {
	entries, err := os.ReadDir(s.Root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, s.hint(err)
	}
	dirs := make([]Dir, 0, len(entries))
	for _, e := range entries {
		if id := e.Name(); e.IsDir() && CheckID(id) == nil {
			dirs = append(dirs, Dir{ID: id, Path: filepath.Join(s.Root, id)})
		}
	}
	return dirs, nil
}

// lockTimeout bounds the wait for another command that works on the container.
const lockTimeout = 60 * time.Second

// Lock is held by who changes a container. It ends with Unlock, or with the process.
type Lock struct{ file *os.File }

// Unlock ends the lock.
func (l *Lock) Unlock() { l.file.Close() }

// Lock waits until no other command, and no other goroutine of this program, changes the container.
func (d *Dir) Lock(ctx context.Context) (*Lock, error) {
	f, err := d.open()
	if errors.Is(err, os.ErrNotExist) {
		return nil, notExist()
	}
	if err != nil {
		return nil, err
	}
	if err := flock(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	// The container may have been deleted meanwhile, and even made again: then this directory has no name any more.
	if !d.names(f) {
		f.Close()
		return nil, notExist()
	}
	return &Lock{f}, nil
}

func (d *Dir) open() (*os.File, error) {
	return os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// names tells whether f is what the directory's path leads to.
func (d *Dir) names(f *os.File) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(d.Path)
	return err == nil && os.SameFile(is, now)
}

func flock(ctx context.Context, f *os.File) error {
	deadline := time.Now().Add(lockTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("another command works on the container for more than %v", lockTimeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// Locked tells whether a command works on the container.
func (d *Dir) Locked() bool {
	f, err := d.open()
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == unix.EWOULDBLOCK
}

// Save replaces the record, and its copy if there are processes that must not be lost with it.
func (d *Dir) Save(r *Record) error {
	if err := d.replace(recordFile, r.encode()); err != nil || r.Init.Pid == 0 {
		return err
	}
	short := *r
	short.Steps = nil
	return d.replace(copyFile, short.encode())
}

func (d *Dir) replace(name string, content []byte) error {
	tmp := filepath.Join(d.Path, name+".new")
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		os.Remove(tmp)
		return err
	}
	path := filepath.Join(d.Path, name)
	// ext4 writes to the disk at once what is renamed over another file, and then has to free the blocks when it is removed: milliseconds
	// for a record that lives as long. What is exchanged with another file it leaves in memory. The record is worth nothing after a crash of the host.
	if unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE) == nil {
		return os.Remove(tmp)
	}
	return os.Rename(tmp, path)
}

// Record returns the record. A directory that has none is an error that is os.ErrNotExist.
func (d *Dir) Record() (*Record, error) { return d.read(recordFile) }

// Copy returns what of the record was kept a second time, for a record that is damaged.
func (d *Dir) Copy() (*Record, error) { return d.read(copyFile) }

func (d *Dir) read(name string) (*Record, error) {
	path := d.Path + "/" + name
	var buf [2048]byte
	b, err := linux.ReadFile(path, buf[:])
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// SaveConfig keeps the configuration.
func (d *Dir) SaveConfig(raw []byte) error {
	return os.WriteFile(filepath.Join(d.Path, ConfigFile), raw, 0o600)
}

// Config returns the configuration that SaveConfig kept.
func (d *Dir) Config() ([]byte, error) { return os.ReadFile(filepath.Join(d.Path, ConfigFile)) }

// Remove takes the directory away. The record goes last, so that a Remove that is killed can be done again. Its caller
// has the lock.
func (d *Dir) Remove() error {
	// Not everyone who makes files here has the lock: who listens for a program's notifications does so without it. Each
	// makes few, and none once the directory is gone, so that this ends.
	const tries = 100
	for i := 1; ; i++ {
		err := d.removeOnce()
		if err == nil || i == tries || !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
}

func (d *Dir) removeOnce() error {
	entries, err := os.ReadDir(d.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != recordFile {
			if err := os.RemoveAll(filepath.Join(d.Path, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(d.Path)
}

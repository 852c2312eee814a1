package hull

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/overlay"
	"hull/internal/upper"
)

// Change is one difference between the host's files and what a command has made of them. Its String is a line such as
// "M /etc/motd (file, 12 B)", whatever is in the path; as JSON it has all that is known.
//
//	Kind   Kind   // Added, Modified or Deleted
//	Path   string // in the container: absolute, clean, and otherwise any bytes
//	Type   Type   // S_IFREG, S_IFDIR and so on, as it is now; of something deleted, before
//	Was    Type   // before, of something modified that was of another type; or 0
//	Size   int64  // of a file, in bytes
//	Mode   uint32 // permissions, with S_ISUID, S_ISGID and S_ISVTX
//	UID    uint32
//	GID    uint32
//	Target string // of a symbolic link
//	Link   string // path of an earlier change that is the same file (a hard link); or ""
//	Shown  bool   // it is where the host's files are shown; what is not can't be put onto the host
type Change = upper.Change

// What a Change is.
const (
	Added    = upper.Added
	Modified = upper.Modified
	Deleted  = upper.Deleted
)

// Refusal is the error of changes that can't be applied. The host's files are as they were.
//
//	Reasons []Reason // each with the Path of a change, and Why it can't be applied
type Refusal = upper.Refusal

// Unfinished is the error of changes that were applied in part.
//
//	Applied []string // paths as the command made them
//	Kept    []string // directories of the host's with what was there before
//	Err     error
type Unfinished = upper.Unfinished

// Changes are what a command has changed of the host's files that it saw. A Cmd with HostFiles.Watch or HostFiles.Keep has
// them once it is started; they are complete when Wait has returned.
type Changes struct {
	tree  *upper.Tree
	files []*os.File
	since time.Time
	keep  string
	made  bool // hull has made keep

	scratch *scratch // where they are until they are closed; or nil

	listed bool
	list   []Change
}

// prepareChanges changes the plan so that changes can be looked at, or returns nil if nobody wants to.
func (c *Cmd) prepareChanges(p *overlay.Plan, s *specs.Spec) (_ *Changes, err error) {
	h := &c.Host
	if h.Keep == "" && !h.Watch {
		return nil, nil
	}
	lower, err := os.OpenFile(p.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	ch := &Changes{files: []*os.File{lower}, since: time.Now()}
	if h.Keep != "" {
		if ch.keep, err = filepath.Abs(h.Keep); err == nil {
			ch.made, err = makeEmpty(ch.keep)
		}
		if err != nil {
			lower.Close()
			return nil, missing("keep", h.Keep, err)
		}
		p.Upper = ch.keep
	}
	p.Send = true
	ch.tree = &upper.Tree{Lower: lower, Entries: slices.Clone(p.Entries), UserXattr: p.UserNS}
	for _, m := range s.Mounts {
		ch.tree.Mounted(m.Destination, false)
	}
	for _, f := range p.Files {
		ch.tree.Mounted(f.Path, true)
	}
	for _, b := range p.Binds {
		fi, err := os.Stat(b.Source)
		ch.tree.Mounted(b.Path, err == nil && !fi.IsDir())
	}
	return ch, nil
}

// makeEmpty makes a directory, unless there is an empty one.
func makeEmpty(dir string) (made bool, err error) {
	err = os.Mkdir(dir, 0o700)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		err = &os.PathError{Op: "use", Path: dir, Err: unix.ENOTEMPTY}
	}
	return false, err
}

// awaitTick makes sure that Apply finds what is changed on the host from now on.
func (c *Changes) awaitTick() {
	if c != nil {
		upper.AwaitTick(c.since)
	}
}

// started takes the upper directory, or what there is instead of a command that has not started.
func (c *Changes) started(upperDir *os.File) {
	if c == nil {
		return
	}
	if upperDir != nil {
		c.tree.Upper = upperDir
		c.files = append(c.files, upperDir)
		return
	}
	c.closeFiles()
	if c.keep != "" {
		for _, name := range []string{"upper", "work"} {
			_ = os.RemoveAll(filepath.Join(c.keep, name))
		}
		if c.made {
			_ = os.Remove(c.keep)
		}
	}
}

func (c *Changes) closeFiles() {
	for _, f := range c.files {
		f.Close()
	}
	c.files = nil
}

// List returns the changes in the order of their paths. A directory that was deleted is one change. It may be called when
// Wait has returned.
func (c *Changes) List() ([]Change, error) {
	if c.listed {
		return c.list, nil
	}
	list, err := c.tree.Changes()
	if err != nil {
		return nil, &fault.Error{Step: "list the changes", Err: err}
	}
	c.list, c.listed = list, true
	return list, nil
}

// Apply puts the changes onto the host: all or none. What the command wrote to places that were empty for it, such as
// /tmp, is left out.
//
// It is refused, with a *Refusal, if anything has changed on the host since the command was started that the command has
// changed, too, and if the command has made what it must not give to the host: devices, fifos and sockets, files with
// set-user-ID or set-group-ID bits or with capabilities.
func (c *Changes) Apply() error {
	list, err := c.List()
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(slices.Clone(list), func(c Change) bool { return !c.Shown })
	if err := c.tree.Apply(list, c.since); err != nil {
		return &fault.Error{Step: "apply the changes", Err: err}
	}
	return nil
}

// Close releases what the command has written. With HostFiles.Keep it stays, in the directory upper there.
func (c *Changes) Close() error {
	if c.files == nil {
		return nil
	}
	var errs []error
	if c.keep != "" {
		list, err := c.List()
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, c.tree.Settle(list))
		}
		errs = append(errs, upper.RemoveWork(c.keep))
	}
	errs = append(errs, c.tree.Close())
	c.closeFiles()
	errs = append(errs, c.scratch.remove())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the changes: %w", err)
	}
	return nil
}

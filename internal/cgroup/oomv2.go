package cgroup

import (
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// memoryWatch looks at memory.events, and at cgroup.events for the end. The kernel marks both as modified.
//
// systemd looks at the end, too, and removes the cgroup of a scope as soon as its last process is gone: who is slower finds no
// count any more. Then that of the cgroup above has to do, in which a removed one's stays; but it has its neighbours', too. So it
// counts only where something has happened to the removed one's memory since it was read last.
type memoryWatch struct {
	events *os.File // inotify

	path        string
	count       uint64 // of the cgroup's OOM kills, as read last
	above       uint64 // the same, of the cgroup above
	descriptor  uint32 // of the watch of memory.events
	lastTouched time.Time
	over        bool
}

// touchedFor is how long a cgroup's memory counts as touched. The kernel tells of nothing for 10 ms after it has told of
// something (CGROUP_FILE_NOTIFY_MIN_INTV), and of nothing that it would have told of later if the cgroup is removed before.
const touchedFor = time.Second

// watchV2 watches a cgroup of v2. next waits for something to happen.
func watchV2(path string) (events *os.File, next func() (bool, error), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &memoryWatch{events: os.NewFile(uintptr(fd), "inotify"), path: path}
	for _, file := range []string{"cgroup.events", "memory.events"} {
		descriptor, err := unix.InotifyAddWatch(fd, path+"/"+file, unix.IN_MODIFY)
		if err != nil {
			w.events.Close()
			return nil, nil, &fs.PathError{Op: "inotify_add_watch", Path: path + "/" + file, Err: err}
		}
		w.descriptor = uint32(descriptor)
	}
	if _, err := w.read(); err != nil {
		w.events.Close()
		return nil, nil, err
	}
	return w.events, w.next, nil
}

// read reads how many OOM kills there were, and tells whether there are more than before.
func (w *memoryWatch) read() (more bool, err error) {
	above := w.readAbove() // first: a kill that comes between is in neither, and is told of if the cgroup is gone by the next time
	count, err := readKeyed(w.path, "memory.events", "oom_kill")
	if err != nil {
		return false, err
	}
	if more = count > w.count; more {
		above = w.readAbove() // that one is told of
	}
	w.count, w.above = count, above
	return more, nil
}

// readAbove reads how many there were in the cgroup above and in all below it. The root of the hierarchy doesn't count.
func (w *memoryWatch) readAbove() uint64 {
	n, err := readKeyed(filepath.Dir(w.path), "memory.events", "oom_kill")
	if err != nil {
		return 0
	}
	return n
}

// next waits for something to happen, and tells whether it was an OOM kill.
func (w *memoryWatch) next() (bool, error) {
	if w.over {
		return false, errOver
	}
	var buf [4096]byte
	n, err := w.events.Read(buf[:])
	if err != nil {
		return false, err
	}
	if w.touches(buf[:n]) {
		w.lastTouched = time.Now()
	}
	oom, err := w.read()
	if gone(err) {
		w.over = true
		return time.Since(w.lastTouched) < touchedFor && w.readAbove() > w.above, nil
	}
	if err != nil {
		return false, err
	}
	populated, err := readKeyed(w.path, "cgroup.events", "populated")
	w.over = err != nil || populated == 0 // the last process may well be the one that was killed
	return oom, nil
}

// touches tells whether one of inotify's events (inotify(7)) is of memory.events.
func (w *memoryWatch) touches(events []byte) bool {
	for len(events) >= unix.SizeofInotifyEvent {
		descriptor, mask := binary.NativeEndian.Uint32(events), binary.NativeEndian.Uint32(events[4:])
		if descriptor == w.descriptor && mask&unix.IN_MODIFY != 0 {
			return true
		}
		events = events[unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])):]
	}
	return false
}

package terminal

import (
	"slices"
	"sync"
)

// Set are the terminals of a kernel. It begins empty.
type Set struct {
	mu       sync.Mutex
	list     []*Terminal
	detached bool // while the kernel is saved: nothing is copied
}

func (ts *Set) all() []*Terminal {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return slices.Clone(ts.list)
}

func (ts *Set) add(t *Terminal) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.list, t.among = append(ts.list, t), ts
}

func (ts *Set) remove(t *Terminal) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.list = slices.DeleteFunc(ts.list, func(o *Terminal) bool { return o == t })
}

// begin begins the copying of a terminal, or leaves that to Attach.
func (ts *Set) begin(t *Terminal) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.stop = make(chan struct{})
	if !ts.detached {
		t.attach()
	}
}

// Detach ends the copying of all, also of those that begin now: the kernel can't save what waits for its files. Attach begins it again.
func (ts *Set) Detach() {
	ts.mu.Lock()
	ts.detached = true
	list := slices.Clone(ts.list)
	ts.mu.Unlock()
	for _, t := range list {
		t.detach()
	}
}

// Attach undoes Detach.
func (ts *Set) Attach() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.detached = false
	for _, t := range ts.list {
		t.attach()
	}
}

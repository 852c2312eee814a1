package terminal

import (
	gocontext "context"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/state"
)

// Saved is what there is of terminals beside the kernel, and has to be found again in one that was restored.
type Saved struct {
	terminal string                 // the name of the first process's; or ""
	master   *vfs.FileDescription   // of that one; or nil
	others   []*vfs.FileDescription // masters of the terminals of other processes, which end with the sandbox that is saved
}

// The four methods that follow say to the kernel's encoder what there is to be saved. Others have theirs made by a program that is
// no part of the kernel's module.

// StateTypeName implements state.Type. An image has that name, whatever this package is called.
func (*Saved) StateTypeName() string { return "hull/internal/sentry/boot.remembered" }

// StateFields implements state.Type.
func (*Saved) StateFields() []string { return []string{"terminal", "master", "others"} }

// StateSave implements state.SaverLoader.
func (k *Saved) StateSave(s state.Sink) {
	s.Save(0, &k.terminal)
	s.Save(1, &k.master)
	s.Save(2, &k.others)
}

// StateLoad implements state.SaverLoader.
func (k *Saved) StateLoad(_ gocontext.Context, s state.Source) {
	s.Load(0, &k.terminal)
	s.Load(1, &k.master)
	s.Load(2, &k.others)
}

// HasTerminal tells whether the first process had a terminal.
func (k *Saved) HasTerminal() bool { return k.master != nil }

// Release gives up the terminals of other processes.
func (k *Saved) Release(ctx context.Context) {
	for _, m := range k.others {
		m.DecRef(ctx)
	}
	k.others = nil
}

func init() { state.Register((*Saved)(nil)) }

// Saved returns what is to be found again. first is the terminal of the first process, or nil.
func (ts *Set) Saved(first *Terminal) *Saved {
	k := new(Saved)
	for _, t := range ts.all() {
		if t == first {
			k.terminal, k.master = t.name, t.master
		} else {
			k.others = append(k.others, t.master)
		}
	}
	return k
}

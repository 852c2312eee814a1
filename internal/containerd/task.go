package containerd

import "time"

// Services that a shim answers: the same methods and messages by two names.
const (
	TaskV2 = "containerd.task.v2.Task"
	TaskV3 = "containerd.task.v3.Task"
)

// Mount is what is to be mounted for a root file system.
type Mount struct {
	Type    string
	Source  string
	Target  string // below the root file system's directory; usually ""
	Options []string
}

func (m *Mount) marshal(w *writer) {
	w.str(1, m.Type)
	w.str(2, m.Source)
	w.str(3, m.Target)
	for _, o := range m.Options {
		w.str(4, o)
	}
}

func (m *Mount) field(f field) error {
	switch f.num {
	case 1:
		m.Type = f.str()
	case 2:
		m.Source = f.str()
	case 3:
		m.Target = f.str()
	case 4:
		m.Options = append(m.Options, f.str())
	}
	return nil
}

// Streams are where a process reads and writes: paths of FIFOs, or URIs. Empty means none.
type Streams struct {
	In, Out, Err string
	Terminal     bool
}

func (s *Streams) marshal(w *writer) {
	w.str(1, s.In)
	w.str(2, s.Out)
	w.str(3, s.Err)
	w.bool(4, s.Terminal)
}

// CreateRequest asks for a container whose process waits for Start.
type CreateRequest struct {
	ID, Bundle string
	Rootfs     []Mount
	Streams    Streams
	Checkpoint string // directory of an image that it goes on from; or ""
	Options    Any
}

func (r *CreateRequest) field(f field) error {
	switch f.num {
	case 1:
		r.ID = f.str()
	case 2:
		r.Bundle = f.str()
	case 3:
		return mount(f, &r.Rootfs)
	case 4:
		r.Streams.Terminal = f.v != 0
	case 5:
		r.Streams.In = f.str()
	case 6:
		r.Streams.Out = f.str()
	case 7:
		r.Streams.Err = f.str()
	case 8:
		r.Checkpoint = f.str()
	case 10:
		return Unmarshal(f.p, &r.Options)
	}
	return nil
}

func mount(f field, list *[]Mount) error {
	var m Mount
	err := Unmarshal(f.p, &m)
	*list = append(*list, m)
	return err
}

// ProcessRequest names a process: the container's first, or an exec. It is all there is in State, Start, Delete, Wait, and,
// without an exec, in Pids, Pause, Resume, Stats and Connect.
type ProcessRequest struct{ ID, ExecID string }

func (r *ProcessRequest) field(f field) error {
	switch f.num {
	case 1:
		r.ID = f.str()
	case 2:
		r.ExecID = f.str()
	}
	return nil
}

// ExecRequest announces another process, which Start starts.
type ExecRequest struct {
	ProcessRequest
	Streams Streams
	Spec    Any // process of config.json, as JSON
}

func (r *ExecRequest) field(f field) error {
	switch f.num {
	case 3:
		r.Streams.Terminal = f.v != 0
	case 4:
		r.Streams.In = f.str()
	case 5:
		r.Streams.Out = f.str()
	case 6:
		r.Streams.Err = f.str()
	case 7:
		return Unmarshal(f.p, &r.Spec)
	}
	return r.ProcessRequest.field(f)
}

// ResizeRequest gives a terminal its size.
type ResizeRequest struct {
	ProcessRequest
	Width, Height uint32
}

func (r *ResizeRequest) field(f field) error {
	switch f.num {
	case 3:
		r.Width = uint32(f.v)
	case 4:
		r.Height = uint32(f.v)
	}
	return r.ProcessRequest.field(f)
}

// KillRequest sends a signal to a process, or to all of the container's.
type KillRequest struct {
	ProcessRequest
	Signal uint32
	All    bool
}

func (r *KillRequest) field(f field) error {
	switch f.num {
	case 3:
		r.Signal = uint32(f.v)
	case 4:
		r.All = f.v != 0
	}
	return r.ProcessRequest.field(f)
}

// CloseRequest ends a process's standard input.
type CloseRequest struct {
	ProcessRequest
	Stdin bool
}

func (r *CloseRequest) field(f field) error {
	if f.num == 3 {
		r.Stdin = f.v != 0
		return nil
	}
	return r.ProcessRequest.field(f)
}

// CheckpointRequest writes a container's state to a directory.
type CheckpointRequest struct {
	ID, Path string
	Options  Any
}

func (r *CheckpointRequest) field(f field) error {
	switch f.num {
	case 1:
		r.ID = f.str()
	case 2:
		r.Path = f.str()
	case 3:
		return Unmarshal(f.p, &r.Options)
	}
	return nil
}

// UpdateRequest changes a container's limits.
type UpdateRequest struct {
	ID        string
	Resources Any // linux.resources of config.json, as JSON
}

func (r *UpdateRequest) field(f field) error {
	switch f.num {
	case 1:
		r.ID = f.str()
	case 2:
		return Unmarshal(f.p, &r.Resources)
	}
	return nil
}

// Empty is google.protobuf.Empty.
type Empty struct{}

func (Empty) marshal(*writer) {}

// PidResponse answers Create and Start.
type PidResponse struct{ Pid int }

func (r *PidResponse) marshal(w *writer) { w.uint(1, uint64(r.Pid)) }

// Exit is how a process has ended.
type Exit struct {
	Pid    int
	Status int // 128 + signal for one that a signal ended
	At     time.Time
}

// DeleteResponse answers Delete, and is what a shim's command delete prints.
type DeleteResponse Exit

func (r *DeleteResponse) marshal(w *writer) {
	w.uint(1, uint64(r.Pid))
	w.uint(2, uint64(r.Status))
	w.time(3, r.At)
}

// WaitResponse answers Wait.
type WaitResponse Exit

func (r *WaitResponse) marshal(w *writer) {
	w.uint(1, uint64(r.Status))
	w.time(2, r.At)
}

// Status is what a process does (containerd/api/types/task/task.proto).
type Status int

const (
	Created Status = 1
	Running Status = 2
	Stopped Status = 3
	Paused  Status = 4
)

// StateResponse answers State.
type StateResponse struct {
	ID, Bundle string
	Status     Status
	Streams    Streams
	Exit       Exit // and the pid, also of a process that runs
	ExecID     string
}

func (r *StateResponse) marshal(w *writer) {
	w.str(1, r.ID)
	w.str(2, r.Bundle)
	w.uint(3, uint64(r.Exit.Pid))
	w.uint(4, uint64(r.Status))
	w.str(5, r.Streams.In)
	w.str(6, r.Streams.Out)
	w.str(7, r.Streams.Err)
	w.bool(8, r.Streams.Terminal)
	w.uint(9, uint64(r.Exit.Status))
	w.time(10, r.Exit.At)
	w.str(11, r.ExecID)
}

// PidsResponse answers Pids.
type PidsResponse []ProcessInfo

// ProcessInfo is a process of a container.
type ProcessInfo struct {
	Pid    int
	ExecID string // of one that Exec has started
}

func (r PidsResponse) marshal(w *writer) {
	for i := range r {
		w.message(1, &r[i])
	}
}

func (p *ProcessInfo) marshal(w *writer) {
	w.uint(1, uint64(p.Pid))
	if p.ExecID != "" {
		w.message(2, &Any{TypeURL: "containerd.runc.v1.ProcessDetails", Value: Marshal(execDetails(p.ExecID))})
	}
}

type execDetails string

func (d execDetails) marshal(w *writer) { w.str(1, string(d)) }

// StatsResponse answers Stats.
type StatsResponse struct{ Stats Any }

func (r *StatsResponse) marshal(w *writer) { w.message(1, &r.Stats) }

// ConnectResponse answers Connect.
type ConnectResponse struct{ ShimPid, TaskPid int }

func (r *ConnectResponse) marshal(w *writer) {
	w.uint(1, uint64(r.ShimPid))
	w.uint(2, uint64(r.TaskPid))
}

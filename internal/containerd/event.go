package containerd

import "time"

// Events is the service of containerd's that takes events, and Forward its method.
const (
	Events  = "containerd.services.events.ttrpc.v1.Events"
	Forward = "Forward"
)

// Event is one of the events below.
type Event interface {
	Message
	Topic() string // what it is about, and what
	name() string  // of its type
}

// Envelope wraps an event for Forward.
type Envelope struct {
	Namespace string
	At        time.Time
	Event     Event
}

func (e *Envelope) marshal(w *writer) { w.message(1, (*envelope)(e)) }

type envelope Envelope

func (e *envelope) marshal(w *writer) {
	w.time(1, e.At)
	w.str(2, e.Namespace)
	w.str(3, e.Event.Topic())
	w.message(4, &Any{TypeURL: e.Event.name(), Value: Marshal(e.Event)})
}

// TaskCreate says that a container is there.
type TaskCreate struct {
	ID, Bundle string
	Rootfs     []Mount
	Streams    Streams
	Checkpoint string
	Pid        int
}

func (*TaskCreate) Topic() string { return "/tasks/create" }
func (*TaskCreate) name() string  { return "containerd.events.TaskCreate" }
func (e *TaskCreate) marshal(w *writer) {
	w.str(1, e.ID)
	w.str(2, e.Bundle)
	for i := range e.Rootfs {
		w.message(3, &e.Rootfs[i])
	}
	w.message(4, &e.Streams)
	w.str(5, e.Checkpoint)
	w.uint(6, uint64(e.Pid))
}

// TaskStart says that a container's program runs.
type TaskStart struct {
	ID  string
	Pid int
}

func (*TaskStart) Topic() string { return "/tasks/start" }
func (*TaskStart) name() string  { return "containerd.events.TaskStart" }
func (e *TaskStart) marshal(w *writer) {
	w.str(1, e.ID)
	w.uint(2, uint64(e.Pid))
}

// TaskExit says that a process has ended.
type TaskExit struct {
	ID        string
	ProcessID string // the container's id, or that of the exec
	Exit      Exit
}

func (*TaskExit) Topic() string { return "/tasks/exit" }
func (*TaskExit) name() string  { return "containerd.events.TaskExit" }
func (e *TaskExit) marshal(w *writer) {
	w.str(1, e.ID)
	w.str(2, e.ProcessID)
	w.uint(3, uint64(e.Exit.Pid))
	w.uint(4, uint64(e.Exit.Status))
	w.time(5, e.Exit.At)
}

// TaskDelete says that a container has been taken away.
type TaskDelete struct {
	ID   string
	Exit Exit
}

func (*TaskDelete) Topic() string { return "/tasks/delete" }
func (*TaskDelete) name() string  { return "containerd.events.TaskDelete" }
func (e *TaskDelete) marshal(w *writer) {
	w.str(1, e.ID)
	w.uint(2, uint64(e.Exit.Pid))
	w.uint(3, uint64(e.Exit.Status))
	w.time(4, e.Exit.At)
}

// TaskOOM says that a container has run out of memory.
type TaskOOM struct{ ID string }

func (*TaskOOM) Topic() string       { return "/tasks/oom" }
func (*TaskOOM) name() string        { return "containerd.events.TaskOOM" }
func (e *TaskOOM) marshal(w *writer) { w.str(1, e.ID) }

// TaskExecAdded says that a process is announced.
type TaskExecAdded struct{ ID, ExecID string }

func (*TaskExecAdded) Topic() string { return "/tasks/exec-added" }
func (*TaskExecAdded) name() string  { return "containerd.events.TaskExecAdded" }
func (e *TaskExecAdded) marshal(w *writer) {
	w.str(1, e.ID)
	w.str(2, e.ExecID)
}

// TaskExecStarted says that such a process runs.
type TaskExecStarted struct {
	ID, ExecID string
	Pid        int
}

func (*TaskExecStarted) Topic() string { return "/tasks/exec-started" }
func (*TaskExecStarted) name() string  { return "containerd.events.TaskExecStarted" }
func (e *TaskExecStarted) marshal(w *writer) {
	w.str(1, e.ID)
	w.str(2, e.ExecID)
	w.uint(3, uint64(e.Pid))
}

// TaskPaused says that a container's processes stand still.
type TaskPaused struct{ ID string }

func (*TaskPaused) Topic() string       { return "/tasks/paused" }
func (*TaskPaused) name() string        { return "containerd.events.TaskPaused" }
func (e *TaskPaused) marshal(w *writer) { w.str(1, e.ID) }

// TaskResumed says that they go on.
type TaskResumed struct{ ID string }

func (*TaskResumed) Topic() string       { return "/tasks/resumed" }
func (*TaskResumed) name() string        { return "containerd.events.TaskResumed" }
func (e *TaskResumed) marshal(w *writer) { w.str(1, e.ID) }

// TaskCheckpointed says where a container's state was written to.
type TaskCheckpointed struct{ ID, Path string }

func (*TaskCheckpointed) Topic() string { return "/tasks/checkpointed" }
func (*TaskCheckpointed) name() string  { return "containerd.events.TaskCheckpointed" }
func (e *TaskCheckpointed) marshal(w *writer) {
	w.str(1, e.ID)
	w.str(2, e.Path)
}

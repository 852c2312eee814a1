package containerd

import "time"

// Sandbox is the service by which containerd has a shim make a pod: what its containers share, before there is one of them
// (containerd/api/runtime/sandbox/v1/sandbox.proto). Its setting for that is sandboxer = "shim".
const Sandbox = "containerd.runtime.sandbox.v1.Sandbox"

// States of a pod, as Kubernetes calls them: containerd passes them on.
const (
	SandboxReady    = "SANDBOX_READY"
	SandboxNotReady = "SANDBOX_NOTREADY"
)

// CreateSandboxRequest asks for a pod that waits for StartSandbox.
type CreateSandboxRequest struct {
	ID, Bundle  string
	Rootfs      []Mount
	Options     Any    // of CRI's, a PodConfig
	NetNS       string // path of its network namespace; "" is the host's, or one of its own if there are no Options
	Annotations map[string]string
}

func (r *CreateSandboxRequest) field(f field) error {
	switch f.num {
	case 1:
		r.ID = f.str()
	case 2:
		r.Bundle = f.str()
	case 3:
		return mount(f, &r.Rootfs)
	case 4:
		return Unmarshal(f.p, &r.Options)
	case 5:
		r.NetNS = f.str()
	case 6:
		return f.entry(&r.Annotations)
	}
	return nil
}

// SandboxRequest names a pod. It is all there is in StartSandbox, Platform, WaitSandbox, PingSandbox, ShutdownSandbox and
// SandboxMetrics; in SandboxStatus, Verbose, and in StopSandbox, Timeout, are beside it, with the same number.
type SandboxRequest struct {
	ID      string
	Verbose bool
	Timeout time.Duration // whole seconds
}

func (r *SandboxRequest) field(f field) error {
	switch f.num {
	case 1:
		r.ID = f.str()
	case 2:
		r.Verbose, r.Timeout = f.v != 0, time.Duration(uint32(f.v))*time.Second
	}
	return nil
}

// StartSandboxResponse answers StartSandbox. Containers are given the namespaces of that pid.
type StartSandboxResponse struct {
	Pid     int
	Created time.Time
	Spec    []byte // config.json of the process
}

func (r *StartSandboxResponse) marshal(w *writer) {
	w.uint(1, uint64(r.Pid))
	w.time(2, r.Created)
	w.message(3, &Any{TypeURL: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: r.Spec})
}

// PlatformResponse answers Platform: what a pod's containers are to be made for.
type PlatformResponse struct{ OS, Architecture, Variant string }

func (r *PlatformResponse) marshal(w *writer) {
	w.message(1, group(func(w *writer) {
		w.str(1, r.OS)
		w.str(2, r.Architecture)
		w.str(3, r.Variant)
	}))
}

// SandboxStatusResponse answers SandboxStatus.
type SandboxStatusResponse struct {
	ID      string
	Pid     int // 0 when it has ended
	State   string
	Info    map[string]string
	Created time.Time
	Exited  time.Time // zero while it runs
}

func (r *SandboxStatusResponse) marshal(w *writer) {
	w.str(1, r.ID)
	w.uint(2, uint64(r.Pid))
	w.str(3, r.State)
	for k, v := range r.Info {
		w.message(4, group(func(w *writer) {
			w.str(1, k)
			w.str(2, v)
		}))
	}
	w.time(5, r.Created)
	w.time(6, r.Exited)
}

// SandboxMetricsResponse answers SandboxMetrics.
type SandboxMetricsResponse struct {
	ID    string
	At    time.Time
	Stats Any
}

func (r *SandboxMetricsResponse) marshal(w *writer) {
	w.message(1, group(func(w *writer) {
		w.time(1, r.At)
		w.str(2, r.ID)
		w.message(3, &r.Stats)
	}))
}

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"hull/internal/containerd"
	"hull/internal/ttrpc"
)

// sandboxMethods are those of the sandbox service. UpdateSandbox is not there, which containerd takes as it should: what a pod
// may use is the kubelet's to change, in the cgroup above.
var sandboxMethods = map[string]func(*service, context.Context, []byte) (containerd.Message, error){
	"CreateSandbox":   with((*service).callCreateSandbox),
	"StartSandbox":    with((*service).callStartSandbox),
	"Platform":        with((*service).callPlatform),
	"StopSandbox":     with((*service).callStopSandbox),
	"WaitSandbox":     with((*service).callWaitSandbox),
	"SandboxStatus":   with((*service).callSandboxStatus),
	"PingSandbox":     with((*service).callPingSandbox),
	"ShutdownSandbox": with((*service).callShutdownSandbox),
	"SandboxMetrics":  with((*service).callSandboxMetrics),
}

func (s *service) callCreateSandbox(ctx context.Context, r *containerd.CreateSandboxRequest) (containerd.Message, error) {
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	if err := s.wantStaying(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	if s.pod != nil || s.creating[r.ID] || s.tasks[r.ID] != nil {
		s.mu.Unlock()
		return nil, &ttrpc.Error{Code: ttrpc.AlreadyExists, Message: "sandbox " + r.ID + ": this shim has one"}
	}
	s.creating[r.ID] = true
	s.mu.Unlock()
	p, err := s.createPod(context.WithoutCancel(ctx), r)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.creating, r.ID)
	if err != nil {
		return nil, err
	}
	s.pod = p
	return containerd.Empty{}, nil
}

func (s *service) callStartSandbox(ctx context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	p, err := s.wantPod(r.ID)
	if err != nil {
		return nil, err
	}
	if err := p.start(context.WithoutCancel(ctx)); err != nil {
		return nil, err
	}
	spec, err := json.Marshal(p.spec)
	if err != nil {
		return nil, err
	}
	return &containerd.StartSandboxResponse{Pid: p.exit.Pid, Created: p.made, Spec: spec}, nil
}

func (s *service) callPlatform(_ context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	if _, err := s.wantPod(r.ID); err != nil {
		return nil, err
	}
	return &containerd.PlatformResponse{OS: "linux", Architecture: runtime.GOARCH}, nil
}

func (s *service) callStopSandbox(_ context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	p, err := s.wantPod(r.ID)
	if err != nil {
		return nil, err
	}
	return containerd.Empty{}, p.stop(r.Timeout)
}

func (s *service) callWaitSandbox(ctx context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	p, err := s.wantPod(r.ID)
	if err != nil {
		return nil, err
	}
	return awaitExit(ctx, p.ended, &p.exit)
}

func (s *service) callSandboxStatus(_ context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	p, err := s.wantPod(r.ID)
	if err != nil {
		return nil, err
	}
	answer := &containerd.SandboxStatusResponse{ID: r.ID, Pid: p.exit.Pid, State: containerd.SandboxNotReady, Created: p.made}
	select {
	case <-p.ended:
		answer.Pid, answer.Exited = 0, p.exit.At
	default:
		if p.ready() {
			answer.State = containerd.SandboxReady
		}
	}
	if r.Verbose {
		answer.Info, err = p.info()
	}
	return answer, err
}

func (s *service) callPingSandbox(_ context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	_, err := s.wantPod(r.ID)
	return containerd.Empty{}, err
}

// callShutdownSandbox ends the shim, whatever it still has: containerd calls its command delete for what that leaves. It also comes
// while a pod is made, when containerd doesn't wait for that any more.
func (s *service) callShutdownSandbox(ctx context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	s.making.Lock()
	defer s.making.Unlock()
	if p, err := s.wantPod(r.ID); err == nil {
		if err := p.stop(r.Timeout); err != nil {
			return nil, err
		}
		if err := p.remove(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end.Do(func() { close(s.over) })
	return containerd.Empty{}, nil
}

func (s *service) callSandboxMetrics(_ context.Context, r *containerd.SandboxRequest) (containerd.Message, error) {
	p, err := s.wantPod(r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := p.stats()
	if err != nil {
		return nil, ociError("events", err)
	}
	return &containerd.SandboxMetricsResponse{ID: r.ID, At: time.Now(), Stats: containerd.Metrics(stats)}, nil
}

// podOptionsFile is where a shim's start keeps the options of a pod's runtime in the bundle: containerd passes them to no other call.
const podOptionsFile = "hull-shim.options"

// keepPodOptions does that, in the working directory.
func keepPodOptions(a *containerd.Any) error {
	return os.WriteFile(podOptionsFile, containerd.Marshal(a), 0o600)
}

func readPodOptions(bundle string) (*containerd.Any, error) {
	a := new(containerd.Any)
	raw, err := os.ReadFile(filepath.Join(bundle, podOptionsFile))
	if errors.Is(err, os.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = containerd.Unmarshal(raw, a)
	}
	return a, err
}

package containerd

import "testing"

// FuzzUnmarshal reads each kind of message from arbitrary bytes. That they are those of containerd is tested in test/shim.
func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("\x0a\x02id\x12\x07/bundle\x1a\x09\x0a\x07overlay\x20\x01\x52\x05\x0a\x03url"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []Incoming{
			new(CreateRequest), new(ProcessRequest), new(ExecRequest), new(ResizeRequest), new(KillRequest), new(CloseRequest),
			new(CheckpointRequest), new(UpdateRequest), new(BootstrapParams), new(Options), new(CheckpointOptions), new(Generic), new(Any),
			new(CreateSandboxRequest), new(SandboxRequest), new(PodConfig),
		} {
			_ = Unmarshal(b, m)
		}
	})
}

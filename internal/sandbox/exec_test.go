package sandbox

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/sandbox/wire"
)

// A request of exec that is written without encoding/json says what it would.
func TestExecJSON(t *testing.T) {
	umask, adj := uint32(0o27), -5
	for name, r := range map[string]wire.Request{
		"least": {Container: "x", Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}},
		"more": {Container: "x.y-z", Path: "/bin/\"a\\b\"\n\xff€", Same: [3]int{0, 0, 2}, Extra: 7, Process: &specs.Process{
			Terminal: true, ConsoleSize: &specs.Box{Height: 3, Width: 4}, Args: []string{"a b", "", "\x00\x1f<>&\u2028"}, Env: []string{"A=b", "C"}, Cwd: "/tmp",
			User:         specs.User{UID: 1, GID: 1<<32 - 1, Umask: &umask, AdditionalGids: []uint32{5, 6}},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_CHOWN"}},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1<<64 - 1, Soft: 1}}, NoNewPrivileges: true, OOMScoreAdj: &adj,
		}},
	} {
		r.Op = wire.Exec
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var want, got wire.Request
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(execJSON(&r), &got); err != nil {
			t.Errorf("%s: %v: %s", name, err, execJSON(&r))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

package native

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/stub"
)

// A hook without an environment gets the container's, not that of the hook before it.
func TestHookEnvironmentIsItsOwn(t *testing.T) {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Kill()
	hooks := []specs.Hook{
		{Path: "/bin/true", Env: []string{"FIRST=1"}},
		{Path: "/bin/sh", Args: []string{"sh", "-c", `[ "$FIRST,$OWN" = ,1 ] || { echo "FIRST=$FIRST OWN=$OWN"; exit 1; }`}},
	}
	if err := runHooks(t.Context(), s, "hooks.startContainer", hooks, []string{"OWN=1"}, nil); err != nil {
		t.Error(err)
	}
}

package native

import (
	"context"

	"hull/internal/engine"
)

// Checkpoint saves a container.
func (Engine) Checkpoint(context.Context, *engine.CheckpointRequest) error {
	return engine.NoCheckpoint()
}

// Restore makes a container of one that was saved.
func (Engine) Restore(context.Context, *engine.RestoreRequest) (*engine.Process, error) {
	return nil, engine.NoCheckpoint()
}

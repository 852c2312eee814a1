package hull

import (
	"context"
	"errors"
	"fmt"

	"hull/internal/fault"
	"hull/internal/pool"
)

// PoolOptions say what Pool keeps.
type PoolOptions struct {
	Size  int    // how many sandboxes are ready, at most MaxPoolSize; 0 means 4
	Ready func() // is called when as many are, for the first time; or nil
}

const poolSize = 4

// MaxPoolSize is how many sandboxes a pool can keep ready.
const MaxPoolSize = pool.MaxSize

// Pool keeps sandboxes ready for the runtime's Root until ctx is done: Create and Run with Isolation Sandbox, of this program or another
// of the same user, take one each, which saves them most of the start. docs/isolation.md says which containers can't have one.
//
// Sandboxes that were taken are children of this program; they go on when it ends.
func (r *Runtime) Pool(ctx context.Context, o PoolOptions) error {
	return fault.In("pool", "", r.pool(ctx, o))
}

func (r *Runtime) pool(ctx context.Context, o PoolOptions) error {
	if o.Size == 0 {
		o.Size = poolSize
	}
	if o.Size < 1 || o.Size > pool.MaxSize {
		return &fault.Error{Step: "size", Kind: fault.BadUsage, Err: fmt.Errorf("got %d, want 1 to %d", o.Size, pool.MaxSize)}
	}
	e := r.sandboxEngine()
	if err := e.Available(); err != nil {
		return err
	}
	return pool.Serve(ctx, pool.Config{
		Dir: e.Pool, Size: o.Size, Ready: o.Ready, Warn: r.warn, Who: e.Who,
		Boot: func(ctx context.Context) (*pool.Parked, error) { return e.Park(ctx, r.Trace, r.warn) },
	})
}

// PoolStatus is what a pool has: Size, how many sandboxes it keeps ready; Parked, how many are so now; Taken, how many were taken since
// it began.
type PoolStatus = pool.Status

// PoolStatus asks the pool of the runtime's Root. Without one it is an error that is ErrNotExist.
func (r *Runtime) PoolStatus() (PoolStatus, error) {
	s, err := pool.Ask(r.store().Root)
	if errors.Is(err, pool.ErrNone) {
		err = &fault.Error{Kind: fault.NotExist, Err: fmt.Errorf("%w of %s", err, r.store().Root),
			Hint: "hull pool starts one, and stays with it; --root names another directory"}
	}
	return s, fault.In("pool", "", err)
}

package hull

import (
	"context"
	"errors"
)

// EndedMeanwhile is what Exec does with an error.
func (c *Container) EndedMeanwhile(ctx context.Context, err error) error {
	return c.endedMeanwhile(ctx, err)
}

// SetTmpfsHasUserXattr has hull take the kernel for one with or without them.
func SetTmpfsHasUserXattr(has bool) { tmpfsHasUserXattr = func() bool { return has } }

// SetNoOverlay has hull take the kernel for one that has no overlayfs for ordinary users.
func SetNoOverlay() {
	noOverlay = func(context.Context, func(string)) error { return errors.New("a test says that there is no overlayfs") }
}

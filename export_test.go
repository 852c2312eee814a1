package hull

import "context"

// EndedMeanwhile is what Exec does with an error.
func (c *Container) EndedMeanwhile(ctx context.Context, err error) error {
	return c.endedMeanwhile(ctx, err)
}

// SetTmpfsHasUserXattr has hull take the kernel for one with or without them.
func SetTmpfsHasUserXattr(has bool) { tmpfsHasUserXattr = func() bool { return has } }

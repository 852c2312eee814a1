package hull

// SetTmpfsHasUserXattr has hull take the kernel for one with or without them.
func SetTmpfsHasUserXattr(has bool) { tmpfsHasUserXattr = func() bool { return has } }

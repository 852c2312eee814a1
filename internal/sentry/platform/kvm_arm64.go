package platform

import "errors"

// newKVM is not there: hull refuses the platform before.
func newKVM(int, int) (Platform, error) {
	return nil, explainKVM(errors.New("on amd64 only"), nil)
}

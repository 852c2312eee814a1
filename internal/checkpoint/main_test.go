package checkpoint_test

import (
	"os"
	"testing"

	"hull/hulltest"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

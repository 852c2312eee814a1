package boot

import (
	"fmt"
	"strings"
	"testing"
)

func TestLogIsBounded(t *testing.T) {
	var log strings.Builder
	b := &bounded{w: &log}
	b.left.Store(10)
	for i := range 5 {
		if n, err := fmt.Fprintf(b, "line%d\n", i); n != 6 || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
	}
	if want := "line0\nwhat follows is left out\n"; log.String() != want {
		t.Errorf("the log is %q, want %q", log.String(), want)
	}
}

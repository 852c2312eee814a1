package sandbox

import (
	"testing"

	"hull/internal/sandbox/wire"
)

func TestListensAt(t *testing.T) {
	// As Linux 6.18 shows it on a little-endian machine.
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
    0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
    1: 0B00007F:9C41 0B00007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0
    2: 0B00007F:A2C3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100 0 0 10 0
`
	for state, want := range map[string]uint16{"0A": 0xa2c3, "01": 0x9c41, "07": 0} {
		if got := listensAt(text, wire.ResolverAddress, state); got != want {
			t.Errorf("state %s: port %d, want %d", state, got, want)
		}
	}
	if got := listensAt("", wire.ResolverAddress, "0A"); got != 0 {
		t.Errorf("nothing: port %d", got)
	}
}

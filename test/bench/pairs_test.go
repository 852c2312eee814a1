package main

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPairs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pairs")
	for run := range 2 {
		kept, err := readPairs(file)
		if err != nil {
			t.Fatal(err)
		}
		f := newFigure("getpid", milliseconds)
		kept.give(f)
		f.add(hull, float64(1+run))
		f.add(runsc, float64(11+run))
		kept.take(f)
		if err := kept.write(file); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readPairs(file)
	want := pairs{"getpid": {Hull: []float64{1, 2}, Runsc: []float64{11, 12}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("after two runs: error %v, pairs (-want +got):\n%s", err, diff)
	}
}

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
)

// pairs are the samples of paired figures, by the figure's name, over several runs: a machine may be quiet for a while only, and in
// one sandbox a program may be slower than in the next.
type pairs map[string]pair

type pair struct{ Hull, Runsc []float64 }

// readPairs reads what an earlier run wrote; nothing, if there was none.
func readPairs(file string) (pairs, error) {
	p := make(pairs)
	if file == "" {
		return p, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	return p, err
}

// give adds what is kept of a figure to it.
func (p pairs) give(f *figure) {
	f.samples[hull] = slices.Concat(p[f.name].Hull, f.samples[hull])
	f.samples[runsc] = slices.Concat(p[f.name].Runsc, f.samples[runsc])
}

// take keeps what there is of a figure.
func (p pairs) take(f *figure) { p[f.name] = pair{f.samples[hull], f.samples[runsc]} }

func (p pairs) write(file string) error {
	if file == "" {
		return nil
	}
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

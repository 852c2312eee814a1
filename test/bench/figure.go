package main

import (
	"fmt"
	"math"
	"slices"
)

// figure is a row of the tables: what was measured of each contestant.
type figure struct {
	table   *table
	name    string
	unit    unit
	budgets []budget
	samples map[role][]float64
}

func newFigure(name string, u unit) *figure {
	return &figure{name: name, unit: u, samples: map[role][]float64{}}
}

func (f *figure) add(r role, sample float64) { f.samples[r] = append(f.samples[r], sample) }

// unit is what samples are in, and how one value is made of them.
type unit int

const (
	milliseconds unit = iota
	kibibytes
	number // of things that should not be
	factor
)

// value is what budgets are about: of a number the sum, otherwise the median.
func (f *figure) value(r role) (v float64, ok bool) {
	samples := f.samples[r]
	if len(samples) == 0 {
		return 0, false
	}
	if f.unit != number {
		return quantile(samples, 0.5), true
	}
	for _, s := range samples {
		v += s
	}
	return v, true
}

// cell is what the table says of a contestant.
func (f *figure) cell(r role) string {
	v, ok := f.value(r)
	switch {
	case !ok:
		return "–"
	case f.unit == milliseconds:
		samples := f.samples[r]
		return fmt.Sprintf("%.2f / %.2f / **%.2f**", slices.Min(samples), quantile(samples, 0.25), v)
	default:
		return f.format(v)
	}
}

func (f *figure) format(v float64) string {
	switch f.unit {
	case milliseconds:
		return fmt.Sprintf("%.2f ms", v)
	case kibibytes:
		return fmt.Sprintf("%.0f KiB", v)
	case number:
		return fmt.Sprintf("%.0f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// ratio is hull's value divided by that of another.
func (f *figure) ratio(than role) (float64, bool) {
	a, ok := f.value(hull)
	b, known := f.value(than)
	// Numbers are about zero, and factors are ratios already.
	return a / b, ok && known && b != 0 && (f.unit == milliseconds || f.unit == kibibytes)
}

// budget is what hull's value may be at most: as a multiple of another contestant's, or, of nobody, by itself.
type budget struct {
	than role
	most float64
}

// verdict says whether a budget was kept, and in what figures.
type verdict struct {
	kept bool
	text string
}

func (f *figure) judge(b budget) verdict {
	v, ok := f.value(hull)
	most := f.format(b.most)
	said := f.format(v)
	if b.than != nobody {
		v, ok = f.ratio(b.than)
		most = fmt.Sprintf("%g × %v", b.most, b.than)
		if than, known := f.value(b.than); known && b.than == empty {
			most += fmt.Sprintf("'s %.2f", than)
		}
		said = fmt.Sprintf("%.2f", v)
	}
	switch {
	case !ok:
		return verdict{false, "**not measured**, ≤ " + most}
	case v > b.most:
		return verdict{false, "**" + said + " > " + most + "**"}
	default:
		return verdict{true, said + " ≤ " + most}
	}
}

// quantile returns the smallest sample that at least the fraction q of all don't exceed; of an even number of them, the
// median is the mean of the two in the middle.
func quantile(samples []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	if q == 0.5 && n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[max(0, int(math.Ceil(q*float64(n)))-1)]
}

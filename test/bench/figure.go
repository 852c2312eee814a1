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
	paired  bool // budgets are judged by what the pairs of samples leave open, see interval
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
	if f.paired {
		return f.judgePairs(b)
	}
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

// judgePairs says whether a budget was kept, missed, or neither is certain.
func (f *figure) judgePairs(b budget) verdict {
	ratios := f.ratios(b.than)
	low, high, ok := interval(ratios)
	said := fmt.Sprintf("%.2f to %.2f of %d pairs", low, high, len(ratios))
	most := fmt.Sprintf("%g × %v", b.most, b.than)
	switch {
	case !ok:
		return verdict{false, "**too few rounds**, ≤ " + most}
	case high <= b.most:
		return verdict{true, "kept: " + said + " ≤ " + most}
	case low > b.most:
		return verdict{false, "**missed: " + said + " > " + most + "**"}
	default:
		return verdict{false, "undecided: " + said + ", ≤ " + most}
	}
}

// decided tells whether more pairs wouldn't change what is said of the budgets.
func (f *figure) decided() bool {
	for _, b := range f.budgets {
		low, high, ok := interval(f.ratios(b.than))
		if !ok || low <= b.most && b.most < high {
			return false
		}
	}
	return true
}

// ratios are those of hull's samples to another's of the same round.
func (f *figure) ratios(than role) (ratios []float64) {
	for i, theirs := range f.samples[than] {
		if i < len(f.samples[hull]) && theirs > 0 {
			ratios = append(ratios, f.samples[hull][i]/theirs)
		}
	}
	return ratios
}

// doubt is how probable it may be that a median is below what interval returns, and again that it is above. It is small, since
// pairs are looked at after each round.
const doubt = 0.005

// interval returns the samples that the median of what they are taken from is between: how many of n samples are below that has
// a binomial distribution, whatever the samples' own. It is not ok if they are too few.
func interval(samples []float64) (low, high float64, ok bool) {
	sorted := slices.Sorted(slices.Values(samples))
	n := len(sorted)
	exactly := math.Pow(0.5, float64(n)) // the probability that k samples are below it
	atMost, k := exactly, 0
	for ; k < n && atMost <= doubt; k++ {
		exactly *= float64(n-k) / float64(k+1)
		atMost += exactly
	}
	if k == 0 {
		return 0, 0, false
	}
	return sorted[k-1], sorted[n-k], true
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

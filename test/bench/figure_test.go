package main

import "testing"

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		name    string
		samples []float64
		q       float64
		want    float64
	}{
		{"one", []float64{7}, 0.5, 7},
		{"odd", []float64{9, 1, 5}, 0.5, 5},
		{"even", []float64{4, 1, 3, 2}, 0.5, 2.5},
		{"quarter", []float64{8, 7, 6, 5, 4, 3, 2, 1}, 0.25, 2},
		{"quarter of few", []float64{3, 2}, 0.25, 2},
		{"least", []float64{3, 2, 1}, 0, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := quantile(tt.samples, tt.q); got != tt.want {
				t.Errorf("quantile(%v, %v) = %v, want %v", tt.samples, tt.q, got, tt.want)
			}
		})
	}
}

func TestQuantileLeavesItsSamples(t *testing.T) {
	samples := []float64{3, 1, 2}
	quantile(samples, 0.5)
	if samples[0] != 3 || samples[1] != 1 {
		t.Errorf("the samples are %v now", samples)
	}
}

func TestJudge(t *testing.T) {
	times := newFigure("run", milliseconds)
	times.add(hull, 6)
	times.add(crun, 10)
	times.add(empty, 5)
	failures := newFigure("failures", number)
	failures.add(hull, 0)
	failures.add(hull, 2)
	parked := newFigure("parked", kibibytes)
	parked.add(hull, 76)
	for _, tt := range []struct {
		name   string
		figure *figure
		budget budget
		want   verdict
	}{
		{"kept", times, budget{crun, 0.7}, verdict{true, "0.60 ≤ 0.7 × crun"}},
		{"reached", times, budget{crun, 0.6}, verdict{true, "0.60 ≤ 0.6 × crun"}},
		{"missed", times, budget{crun, 0.5}, verdict{false, "**0.60 > 0.5 × crun**"}},
		{"beside Go", times, budget{empty, 1.3}, verdict{true, "1.20 ≤ 1.3 × an empty Go program's 5.00"}},
		{"no such peer", times, budget{newest, 0.25}, verdict{false, "**not measured**, ≤ 0.25 × newest runc"}},
		{"absolute", parked, budget{nobody, 4096}, verdict{true, "76 KiB ≤ 4096 KiB"}},
		{"one failure is too many", failures, budget{nobody, 0}, verdict{false, "**2 > 0**"}},
		{"nothing measured", newFigure("none", number), budget{nobody, 0}, verdict{false, "**not measured**, ≤ 0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.figure.judge(tt.budget); got != tt.want {
				t.Errorf("judge = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestCell(t *testing.T) {
	f := newFigure("run", milliseconds)
	for _, ms := range []float64{4, 3, 2, 1} {
		f.add(hull, ms)
	}
	if got, want := f.cell(hull), "1.00 / 1.00 / **2.50**"; got != want {
		t.Errorf("hull's cell is %q, want %q", got, want)
	}
	if got := f.cell(crun); got != "–" {
		t.Errorf("the cell of one that wasn't measured is %q", got)
	}
}

func TestInterval(t *testing.T) {
	seven, eight := []float64{7, 1, 6, 2, 5, 3, 4}, []float64{8, 1, 7, 2, 6, 3, 5, 4}
	if _, _, ok := interval(seven); ok {
		t.Error("seven samples say where their median is")
	}
	if low, high, ok := interval(eight); !ok || low != 1 || high != 8 {
		t.Errorf("of eight: %v to %v, %v; want all of them", low, high, ok)
	}
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(i+1))
	}
	// As in tables of the sign test: of a hundred, at 99 %, the 37th to the 64th.
	if low, high, ok := interval(hundred); !ok || low != 37 || high != 64 {
		t.Errorf("of a hundred: %v to %v, %v; want 37 to 64", low, high, ok)
	}
}

func TestJudgePairs(t *testing.T) {
	figureOf := func(ratios ...float64) *figure {
		f := newFigure("getpid", milliseconds)
		f.paired, f.budgets = true, []budget{{runsc, 1.05}}
		for i, r := range ratios {
			theirs := float64(1 + i) // a machine that gets slower
			f.add(runsc, theirs)
			f.add(hull, r*theirs)
		}
		return f
	}
	for _, tt := range []struct {
		name    string
		figure  *figure
		want    verdict
		decided bool
	}{
		{"kept", figureOf(0.5, 0.5, 0.5, 0.5, 1, 1, 1, 1), verdict{true, "kept: 0.50 to 1.00 of 8 pairs ≤ 1.05 × newest runsc"}, true},
		{"missed", figureOf(1.5, 1.5, 1.5, 1.5, 2, 2, 2, 2), verdict{false, "**missed: 1.50 to 2.00 of 8 pairs > 1.05 × newest runsc**"}, true},
		{"undecided", figureOf(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 2), verdict{false, "undecided: 0.50 to 2.00 of 8 pairs, ≤ 1.05 × newest runsc"}, false},
		{"too few", figureOf(0.5, 0.5), verdict{false, "**too few rounds**, ≤ 1.05 × newest runsc"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.figure.judge(tt.figure.budgets[0]); got != tt.want {
				t.Errorf("judge: %v, want %v", got, tt.want)
			}
			if got := tt.figure.decided(); got != tt.decided {
				t.Errorf("decided: %v, want %v", got, tt.decided)
			}
		})
	}
}

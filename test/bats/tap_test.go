package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTAP(t *testing.T) {
	const report = "noise\r\n1..6\r\nok 1 a\r\nnot ok 2 b # timeout after 5 s\r\n# why\r\nok 3 c # skip no such thing\r\nok 4 d [x] in 3ms  # in 3 ms\r\n"
	got, err := ParseTAP("f.bats", strings.NewReader(report))
	want := []Result{
		{"f.bats: a", Passed},
		{"f.bats: b", Failed},
		{"f.bats: c", Skipped},
		{"f.bats: d [x] in 3ms", Passed},
		{"f.bats: test 5 was not reported", Failed},
		{"f.bats: test 6 was not reported", Failed},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("ParseTAP: %v\n%s", err, diff)
	}
	if got, err := ParseTAP("f.bats", strings.NewReader("ok 1 a\n")); err == nil {
		t.Errorf("ParseTAP without a plan = %v", got)
	}
}

func TestJudge(t *testing.T) {
	results := []Result{{"f: kept", Passed}, {"f: lost", Failed}, {"f: worded", Failed}, {"f: cured", Passed}, {"f: won", Passed}, {"f: never", Failed}}
	wanted := []string{"f: kept", "f: lost", "f: worded", "f: cured", "f: gone", "g: not run"}
	excuses := map[string]string{"f: worded": "words", "f: cured": "words"}
	want := []Verdict{
		{Kept, "f: kept", ""},
		{Lost, "f: lost", "not ok"},
		{Excused, "f: worded", "words"},
		{Cured, "f: cured", "passes now, remove it from differs.txt"},
		{Lost, "f: gone", "did not run"},
		{Won, "f: won", ""},
	}
	if diff := cmp.Diff(want, judge(results, wanted, excuses, []string{"f"})); diff != "" {
		t.Error(diff)
	}
}

func TestLists(t *testing.T) {
	names, err := parseNames(expected)
	if err != nil || len(names) == 0 {
		t.Errorf("expected.txt: %d names, %v", len(names), err)
	}
	known := map[string]bool{}
	for _, name := range names {
		if known[name] {
			t.Errorf("expected.txt has %q twice", name)
		}
		known[name] = true
	}
	excuses, err := parseExcuses(differs)
	if err != nil {
		t.Error(err)
	}
	for name := range excuses {
		if !known[name] {
			t.Errorf("differs.txt excuses %q, which isn't expected", name)
		}
	}
}

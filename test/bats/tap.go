package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Status is how a test ended.
type Status string

const (
	Passed  Status = "ok"
	Failed  Status = "not ok"
	Skipped Status = "skipped"
)

// Result is one test of the suite.
type Result struct {
	Name   string // "kill.bats: kill detached busybox"
	Status Status
}

// ParseTAP reads what bats reports of one file. A report that is cut short, as after a crash of bats, has the missing
// tests as failures without a name, so that they are not forgotten.
func ParseTAP(file string, r io.Reader) ([]Result, error) {
	var results []Result
	plan := -1
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r") // a terminal's lines end so
		if n, ok := strings.CutPrefix(line, "1.."); ok {
			var err error
			if plan, err = strconv.Atoi(n); err != nil {
				return nil, fmt.Errorf("plan %q: %w", line, err)
			}
			continue
		}
		if res, ok := parseTest(line); ok {
			res.Name = file + ": " + res.Name
			results = append(results, res)
		}
	}
	if plan < 0 {
		return nil, fmt.Errorf("no plan in the report")
	}
	for n := len(results) + 1; n <= plan; n++ {
		results = append(results, Result{Name: fmt.Sprintf("%s: test %d was not reported", file, n), Status: Failed})
	}
	return results, sc.Err()
}

// parseTest reads "ok 3 name", "not ok 3 name" and "ok 3 name # skip why"; bats appends " # in 12 ms" or
// " # timeout after 5 s" to some.
func parseTest(line string) (Result, bool) {
	status := Passed
	rest, ok := strings.CutPrefix(line, "ok ")
	if !ok {
		status = Failed
		if rest, ok = strings.CutPrefix(line, "not ok "); !ok {
			return Result{}, false
		}
	}
	_, name, ok := strings.Cut(rest, " ")
	if !ok {
		return Result{}, false
	}
	for _, mark := range []string{" # skip", " # timeout", " # in "} {
		if i := strings.LastIndex(name, mark); i >= 0 {
			name = name[:i]
			if mark == " # skip" {
				status = Skipped
			}
		}
	}
	return Result{Name: strings.TrimSpace(name), Status: status}, true
}

// Kind is what a result means beside what was expected.
type Kind string

const (
	Kept    Kind = "kept"    // expected, and it passes
	Lost    Kind = "LOST"    // expected, and it doesn't
	Excused Kind = "excused" // lost, with a reason in differs.txt
	Cured   Kind = "CURED"   // in differs.txt, and it passes: the excuse must go
	Won     Kind = "won"     // not expected, and it passes
)

// Verdict is the judgement of one test.
type Verdict struct {
	Kind   Kind
	Name   string
	Reason string
}

// judge compares the results of files with the names that were expected of them. Tests that neither pass nor were
// expected to are left out.
func judge(results []Result, wanted []string, excuses map[string]string, files []string) []Verdict {
	status := map[string]Status{}
	for _, r := range results {
		status[r.Name] = r.Status
	}
	ran := map[string]bool{}
	for _, f := range files {
		ran[f] = true
	}
	expected := map[string]bool{}
	var vs []Verdict
	for _, name := range wanted {
		expected[name] = true
		if file, _, _ := strings.Cut(name, ": "); ran[file] {
			vs = append(vs, judgeOne(name, status[name], excuses[name]))
		}
	}
	for _, r := range results {
		if r.Status == Passed && !expected[r.Name] {
			vs = append(vs, Verdict{Kind: Won, Name: r.Name})
		}
	}
	return vs
}

func judgeOne(name string, s Status, excuse string) Verdict {
	switch {
	case s == Passed && excuse != "":
		return Verdict{Kind: Cured, Name: name, Reason: "passes now, remove it from differs.txt"}
	case s == Passed:
		return Verdict{Kind: Kept, Name: name}
	case excuse != "":
		return Verdict{Kind: Excused, Name: name, Reason: excuse}
	case s == "":
		return Verdict{Kind: Lost, Name: name, Reason: "did not run"}
	}
	return Verdict{Kind: Lost, Name: name, Reason: string(s)}
}

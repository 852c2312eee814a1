package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRow(t *testing.T) {
	b := &bench{}
	f := b.figure(exampleTable, "`run` of true", milliseconds, budget{crun, 0.7})
	f.add(hull, 6)
	f.add(crun, 10)
	f.add(newest, 30)
	want := "| `run` of true | 6.00 / 6.00 / **6.00** | 10.00 / 10.00 / **10.00** | – | 30.00 / 30.00 / **30.00** | 0.60 | 0.20 | 0.60 ≤ 0.7 × crun |"
	if diff := cmp.Diff(want, b.row(f)); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

func TestReplace(t *testing.T) {
	for _, tt := range []struct {
		name, document, want string
		ok                   bool
	}{
		{"between the marks", "a\n" + beginMark + "old\n" + endMark + "z\n", "a\n" + beginMark + "\nnew\n\n" + endMark + "z\n", true},
		{"nothing between them", beginMark + endMark, beginMark + "\nnew\n\n" + endMark, true},
		{"no begin", "a\n" + endMark, "", false},
		{"no end", beginMark + "old\n", "", false},
		{"the wrong way round", endMark + beginMark, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := replace(tt.document, "new\n")
			if diff := cmp.Diff(tt.want, got); diff != "" || (err == nil) != tt.ok {
				t.Errorf("replace: error %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

package cli

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseLimit(t *testing.T) {
	tests := []struct {
		in   string
		want int64
	}{
		{"0", 0}, {"-1", -1}, {"1024", 1024}, {"1k", 1 << 10}, {"1K", 1 << 10}, {"1kb", 1 << 10}, {"1KiB", 1 << 10},
		{"64m", 64 << 20}, {"1.5g", 3 << 29}, {"2 GB", 2 << 30}, {"1t", 1 << 40}, {"1p", 1 << 50}, {"7b", 7},
		{"9223372036854775807", math.MaxInt64}, {"9007199254740993", 9007199254740993},
	}
	for _, test := range tests {
		if got, err := parseLimit(test.in); got != test.want || err != nil {
			t.Errorf("%q: got %d, %v, want %d", test.in, got, err, test.want)
		}
	}
	for _, in := range []string{"", "-2", "m", "1q", "1kk", "1mib1", "1bb", "0x10", "1e3x", "9223372036854775808", "9000p", "1 2", "nan", "inf"} {
		if got, err := parseLimit(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
	if got, err := parseSize("-1"); err == nil {
		t.Errorf("a size of -1: got %d, want an error", got)
	}
}

func FuzzParseLimit(f *testing.F) {
	f.Add("1.5g")
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := parseLimit(s); err == nil && v < -1 {
			t.Errorf("%q: %d", s, v)
		}
	})
}

func TestNumberFlag(t *testing.T) {
	var quota *int64
	options := newOptions("test")
	options.valueVar(number(&quota, parseInt, "N"), "quota", "")
	if _, err := options.parse([]string{"--quota", ""}, optionsAnywhere); err != nil || quota != nil {
		t.Fatalf("empty: %v, %v", quota, err)
	}
	if _, err := options.parse([]string{"--quota", "-1"}, optionsAnywhere); err != nil || quota == nil || *quota != -1 {
		t.Fatalf("-1: %v, %v", quota, err)
	}
	if _, err := options.parse([]string{"--quota", "x"}, optionsAnywhere); err == nil {
		t.Error("x: no error")
	}
}

func TestAutoBool(t *testing.T) {
	yes, no := true, false
	for in, want := range map[string]*bool{"": nil, "auto": nil, "Auto": nil, "true": &yes, "1": &yes, "false": &no} {
		var b autoBool
		if err := b.Set(in); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if diff := cmp.Diff(want, b.value); diff != "" {
			t.Errorf("%q (-want +got)\n%s", in, diff)
		}
	}
	if err := new(autoBool).Set("perhaps"); err == nil {
		t.Error("perhaps: no error")
	}
}

func TestArity(t *testing.T) {
	tests := []struct {
		a    arity
		n    int
		want string
	}{
		{arity{1, 1}, 1, ""},
		{arity{1, 1}, 0, "got no arguments, want 1"},
		{arity{1, 1}, 2, "got 2 arguments, want 1"},
		{arity{0, 0}, 1, "got 1 argument, want 0"},
		{arity{1, 2}, 2, ""},
		{arity{1, 2}, 3, "got 3 arguments, want at most 2"},
		{arity{1, anyNumber}, 99, ""},
		{arity{1, anyNumber}, 0, "got no arguments, want at least 1"},
	}
	for _, test := range tests {
		got := ""
		if err := test.a.check(test.n); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%v, %d: got %q, want %q", test.a, test.n, got, test.want)
		}
	}
}

func TestActivation(t *testing.T) {
	tests := []struct {
		name string
		vars map[string]string
		n    int
		env  []string
	}{
		{"none", nil, 0, nil},
		{"for us", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "2"}, 2, []string{"LISTEN_FDS=2", "LISTEN_PID=1"}},
		{"with names", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}, 1,
			[]string{"LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=http"}},
		{"for another process", map[string]string{"LISTEN_PID": "8", "LISTEN_FDS": "2"}, 0, nil},
		{"no number", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "x"}, 0, nil},
		{"negative", map[string]string{"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, 0, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			n, env := activation(7, func(name string) string { return test.vars[name] })
			if n != test.n {
				t.Errorf("got %d, want %d", n, test.n)
			}
			if diff := cmp.Diff(test.env, env); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestSelectRows(t *testing.T) {
	table := "USER  PID  CMD\nroot    1  init 22\nme     22  sh -c 1\nme    220  x\n"
	got, err := selectRows([]byte(table), []int{22})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("USER  PID  CMD\nme     22  sh -c 1\n", string(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, bad := range []string{"", "USER CMD\nroot init\n", "PID CMD\nx y\n", "USER PID\nroot\n"} {
		if out, err := selectRows([]byte(bad), nil); err == nil {
			t.Errorf("%q: got %q, want an error", bad, out)
		}
	}
}

func TestExitStatus(t *testing.T) {
	if exited(0) != nil {
		t.Error("0 is no error")
	}
	var s exitStatus
	if err := exited(7); !errors.As(err, &s) || s != 7 {
		t.Errorf("7: got %v", err)
	}
}

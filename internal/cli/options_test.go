package cli

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// parsed is what the options of these tests are parsed into.
type parsed struct {
	Detach, TTY bool
	Env         []string
	PidFile     string
	Args        []string
}

func parseTest(words []string, mode parseMode) (parsed, *optionSet, error) {
	var p parsed
	o := newOptions("test")
	o.boolVar(&p.Detach, "detach, d", "")
	o.boolVar(&p.TTY, "tty, t", "")
	o.stringsVar(&p.Env, "env, e", "")
	o.stringVar(&p.PidFile, "pid-file", "", "")
	var err error
	p.Args, err = o.parse(words, mode)
	return p, o, err
}

func TestParse(t *testing.T) {
	tests := []struct {
		name  string
		mode  parseMode
		words []string
		want  parsed
	}{
		{"none", optionsAnywhere, nil, parsed{}},
		{"long", optionsAnywhere, []string{"--detach", "--pid-file=f", "x"}, parsed{Detach: true, PidFile: "f", Args: []string{"x"}}},
		{"one dash", optionsAnywhere, []string{"-detach", "-pid-file", "f", "x"}, parsed{Detach: true, PidFile: "f", Args: []string{"x"}}},
		{"one dash and value", optionsAnywhere, []string{"-pid-file=f"}, parsed{PidFile: "f"}},
		{"letters", optionsAnywhere, []string{"-dt", "-e", "A=1", "-eB=2"}, parsed{Detach: true, TTY: true, Env: []string{"A=1", "B=2"}}},
		{"letter and value", optionsAnywhere, []string{"-e=A=1", "-d=false", "-te="}, parsed{TTY: true, Env: []string{"A=1", ""}}},
		{"anywhere", optionsAnywhere, []string{"x", "-d", "y"}, parsed{Detach: true, Args: []string{"x", "y"}}},
		{"dashes end them", optionsAnywhere, []string{"x", "--", "-detach"}, parsed{Args: []string{"x", "-detach"}}},
		{"dashes are a value", optionsAnywhere, []string{"-e", "--", "-d"}, parsed{Detach: true, Env: []string{"--"}}},
		{"a dash is an argument", optionsAnywhere, []string{"-", "-d", ""}, parsed{Detach: true, Args: []string{"-", ""}}},
		{"to the first argument", stopAtArgument, []string{"-d", "x", "ls", "-detach", "--tty"}, parsed{Detach: true, Args: []string{"x", "ls", "-detach", "--tty"}}},
		{"dashes after it", stopAtArgument, []string{"-d", "x", "--", "ls"}, parsed{Detach: true, Args: []string{"x", "--", "ls"}}},
		{"values are left alone", stopAtArgument, []string{"--env", "-tty", "-e", "-detach", "x"}, parsed{Env: []string{"-tty", "-detach"}, Args: []string{"x"}}},
		{"value of joined letters", stopAtArgument, []string{"-de", "-tty", "x"}, parsed{Detach: true, Env: []string{"-tty"}, Args: []string{"x"}}},
		{"false", optionsAnywhere, []string{"-d", "-detach=false"}, parsed{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, _, err := parseTest(test.words, test.mode)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseWrong(t *testing.T) {
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"--bogus=1"}, "unknown option --bogus"},
		{[]string{"--d"}, "unknown option --d"},
		{[]string{"---detach"}, "unknown option ---detach"},
		{[]string{"--="}, "unknown option --"},
		{[]string{"-dz"}, "unknown option -dz"},
		{[]string{"x", "--pid-file"}, "--pid-file: the value is missing"},
		{[]string{"-de"}, "--env: the value is missing"},
		{[]string{"--tty=maybe"}, `--tty "maybe": want true or false`},
	} {
		if _, _, err := parseTest(test.words, optionsAnywhere); err == nil || err.Error() != test.want {
			t.Errorf("%q: got %v, want %s", test.words, err, test.want)
		}
	}
}

func TestOptionsGiven(t *testing.T) {
	_, o, err := parseTest([]string{"a", "-t=false", "--", "b"}, optionsAnywhere)
	if err != nil {
		t.Fatal(err)
	}
	if !o.given("tty") || o.given("detach") {
		t.Errorf("tty %v, detach %v", o.given("tty"), o.given("detach"))
	}
	if o.ended != 1 {
		t.Errorf("-- after %d arguments", o.ended)
	}
	if _, o, _ := parseTest([]string{"a"}, optionsAnywhere); o.ended != -1 {
		t.Errorf("without --: %d", o.ended)
	}
}

// FuzzParse: what was understood, written in full, is understood alike.
func FuzzParse(f *testing.F) {
	f.Add("-tty", "--env", "x", true)
	f.Add("-e", "-detach", "--", false)
	f.Add("-", "", "-de", false)
	f.Add("-d=0", "-te=1", "-pid-file=--", false)
	f.Fuzz(func(t *testing.T, a, b, c string, stop bool) {
		mode := optionsAnywhere
		if stop {
			mode = stopAtArgument
		}
		got, _, err := parseTest([]string{a, b, c}, mode)
		if err != nil {
			return
		}
		words := []string{"--pid-file=" + got.PidFile}
		if got.Detach {
			words = append(words, "--detach")
		}
		if got.TTY {
			words = append(words, "--tty")
		}
		for _, v := range got.Env {
			words = append(words, "--env", v)
		}
		words = slices.Concat(words, []string{"--"}, got.Args)
		again, _, err := parseTest(words, mode)
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Errorf("%q as %q\n%s", []string{a, b, c}, words, diff)
		}
	})
}

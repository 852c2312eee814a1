package cli

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"hull"
)

// optionSet are the options of a command: package flag has their values, and this what that package lacks: names of one
// letter, also several to a word (-dt), options after arguments, an order for help, and options that help leaves out.
type optionSet struct {
	flags *flag.FlagSet
	list  []*option // as declared
	// ended is how many arguments came before --, which ends the options; -1 if there was none.
	ended int
	// emptied are the names of options that were given an empty value.
	emptied []string
}

type option struct {
	*flag.Flag
	letter string   // or ""
	hidden bool     // from help
	values []string // those that shells offer; nil: any, or what the argument's name says
}

func newOptions(command string) *optionSet {
	return &optionSet{flags: flag.NewFlagSet(command, flag.ContinueOnError), ended: -1}
}

// declare adds the option that f declares in o.flags by its long name. names are that one and perhaps a letter, as in
// "detach, d".
func (o *optionSet) declare(names string, f func(name string)) {
	name, letter, _ := strings.Cut(names, ", ")
	f(name)
	o.list = append(o.list, &option{Flag: o.flags.Lookup(name), letter: letter})
}

// The methods that follow declare options. What usage has between back quotes is what help calls the argument.

func (o *optionSet) boolVar(p *bool, names, usage string) {
	o.declare(names, func(name string) { o.flags.BoolVar(p, name, false, usage) })
}

func (o *optionSet) stringVar(p *string, names, value, usage string) {
	o.declare(names, func(name string) { o.flags.StringVar(p, name, value, usage) })
}

// stringsVar declares an option that may be given more than once.
func (o *optionSet) stringsVar(p *[]string, names, usage string) {
	o.valueVar((*stringList)(p), names, usage)
}

func (o *optionSet) intVar(p *int, names, usage string) {
	o.declare(names, func(name string) { o.flags.IntVar(p, name, 0, usage) })
}

func (o *optionSet) durationVar(p *time.Duration, names string, value time.Duration, usage string) {
	o.declare(names, func(name string) { o.flags.DurationVar(p, name, value, usage) })
}

func (o *optionSet) valueVar(v flag.Value, names, usage string) {
	o.declare(names, func(name string) { o.flags.Var(v, name, usage) })
}

// hide leaves the option declared last out of help.
func (o *optionSet) hide() { o.list[len(o.list)-1].hidden = true }

// offer says which values the option declared last may have.
func (o *optionSet) offer(values ...string) { o.list[len(o.list)-1].values = values }

// given tells whether the command line has the option.
func (o *optionSet) given(name string) (given bool) {
	o.flags.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// stringList is the value of an option that may be given more than once.
type stringList []string

func (l *stringList) String() string { return "" }

func (l *stringList) Set(s string) error {
	*l = append(*l, s)
	return nil
}

// parseMode says where options end.
type parseMode int

const (
	optionsAnywhere parseMode = iota // but not after --
	stopAtArgument                   // at the first argument: the others belong to another program
)

// parse sets the options and returns the arguments.
func (o *optionSet) parse(words []string, mode parseMode) (args []string, err error) {
	for len(words) > 0 {
		word, rest := words[0], words[1:]
		switch {
		case word == "--":
			o.ended = len(args)
			return append(args, rest...), nil
		case len(word) > 1 && word[0] == '-':
			words, err = o.take(word, rest)
			if err != nil {
				return nil, err
			}
		case mode == stopAtArgument:
			return append(args, words...), nil
		default:
			args, words = append(args, word), rest
		}
	}
	return args, nil
}

// take sets what a word says, taking a value from the words after it if there is one missing, and returns those left.
//
// A long name may have one dash, as scripts for other runtimes have it: -detach is --detach, not -d -e -t….
func (o *optionSet) take(word string, after []string) ([]string, error) {
	name, value, hasValue := strings.Cut(strings.TrimPrefix(word[1:], "-"), "=")
	if f := o.flags.Lookup(name); f != nil {
		return o.set(f, value, hasValue, after)
	}
	if word[1] == '-' {
		return after, unknownOption("--" + name)
	}
	return o.takeLetters(word, after)
}

// unknownOption is the word of an option that there isn't, without a value.
type unknownOption string

func (u unknownOption) Error() string { return "unknown option " + string(u) }

// lookup returns the option that take would set first by a word, or nil.
func (o *optionSet) lookup(word string) *flag.Flag {
	if f := o.flags.Lookup(strings.TrimLeft(word, "-")); f != nil || strings.HasPrefix(word, "--") {
		return f
	}
	return o.byLetter(word[1:2])
}

// takeLetters is take for a word of letters. The first that wants a value has the rest of the word, if there is any.
func (o *optionSet) takeLetters(word string, after []string) ([]string, error) {
	for i := 1; i < len(word); i++ {
		f := o.byLetter(word[i : i+1])
		if f == nil {
			return after, unknownOption(word)
		}
		value, equals := strings.CutPrefix(word[i+1:], "=")
		if equals || value != "" && !isBool(f) {
			return o.set(f, value, true, after)
		}
		var err error
		if after, err = o.set(f, "", false, after); err != nil {
			return nil, err
		}
	}
	return after, nil
}

func (o *optionSet) byLetter(letter string) *flag.Flag {
	for _, option := range o.list {
		if option.letter == letter {
			return option.Flag
		}
	}
	return nil
}

// set gives an option its value: the one its word had, or what stands for none, or the next word, which is taken away.
func (o *optionSet) set(f *flag.Flag, value string, hasValue bool, after []string) (rest []string, err error) {
	switch {
	case hasValue:
	case isBool(f):
		value = "true"
	case len(after) == 0:
		return nil, fmt.Errorf("--%s: the value is missing", f.Name)
	default:
		value, after = after[0], after[1:]
	}
	if value == "" {
		o.emptied = append(o.emptied, f.Name)
	}
	if err := o.flags.Set(f.Name, value); err != nil {
		return nil, fmt.Errorf("--%s %q: %w", f.Name, value, wanted(f, err))
	}
	return after, nil
}

// wanted says what would be right where package flag says no more than "parse error".
func wanted(f *flag.Flag, err error) error {
	g, ok := f.Value.(flag.Getter)
	if !ok {
		return err
	}
	switch g.Get().(type) {
	case bool:
		return errors.New("want true or false")
	case int:
		return errors.New("want a whole number")
	case time.Duration:
		return errNoTime
	}
	return err
}

// libraryNouns are what package hull calls that which an option of another name sets.
var libraryNouns = map[string]string{
	"capability":        "cap",
	"working directory": "cwd",
	"size":              "tmpfs-size",
	"limit of memory":   "memory",
	"limit of cpus":     "cpus",
	"limit of pids":     "pids",
	"limit of files":    "files",
	"limit of time":     "timeout",
}

// name has an error of package hull say which of these options it is about, as in --user "x" for user "x".
func (o *optionSet) name(err error) error {
	option := func(said string) string {
		noun, value, _ := strings.Cut(said, " \"")
		if value != "" {
			value = " \"" + value
		}
		if n, ok := libraryNouns[noun]; ok {
			noun = n
		}
		if o.flags.Lookup(noun) == nil {
			return said
		}
		return "--" + noun + value
	}
	for cause := err; cause != nil; {
		for _, one := range joined(cause) {
			o.name(one)
		}
		var e *hull.Error
		if !errors.As(cause, &e) {
			break
		}
		e.Field, e.Step = option(e.Field), option(e.Step)
		cause = e.Err
	}
	return err
}

var errNoTime = errors.New("want a number with a unit, such as 30s or 5m")

// isBool tells whether an option needs no argument, by the convention of package flag.
func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

package cli

import (
	"flag"
	"io"
	"strings"
)

const (
	width  = 80 // of the text
	indent = 3
	column = 30 // where the descriptions of options begin
)

func helpCommand() *Command {
	var man bool
	return &Command{
		Name:    "help",
		Aliases: []string{"h"},
		Summary: "show what there is, or how a command is used",
		Usage:   "[options] [COMMAND]",
		Examples: `hull help run
hull help --man run | man -l -`,
		Args: arity{0, 1},
		Flags: func(fs *optionSet) {
			fs.boolVar(&man, "man", "print a manual page, as man(1) reads them")
		},
		Run: func(env *Env, args []string) error {
			if len(args) == 0 && man {
				return env.write(manualPage(nil))
			}
			if len(args) == 0 {
				return env.printHelp()
			}
			c := lookup(args[0])
			if c == nil {
				return env.unknownCommand(args[0])
			}
			if man {
				return env.write(manualPage(c))
			}
			return env.printCommandHelp(c)
		},
	}
}

func (e *Env) write(text string) error {
	_, err := io.WriteString(e.Stdout, text)
	return err
}

// page is what help texts and manual pages are written to.
type page interface {
	section(title string)
	// phrase is a line of a section.
	phrase(s string)
	// text has paragraphs, which empty lines part. Lines that begin with a space stay as they are.
	text(s string)
	verbatim(s string)
	// entry is a term and what it means, from a column on where there are columns.
	entry(term string, column int, meaning string)
}

const programSummary = "Open Container Initiative runtime"

const programLong = `hull runs containers as the Open Container Initiative specifies them. A container is made from a bundle: a directory with a file config.json, which says what to run and how it is isolated, and usually the root file system. hull spec writes a config.json to begin with.

hull run does it all: it creates a container, starts its program, waits for the end and cleans up. Engines take the steps one by one: create, start, kill, delete. The id of a container is chosen by the caller; it is unique below the directory of --root, and made of letters, digits and the characters _ + - . (not . or .. alone).

Of the global options --isolation says something to create, run, do and restore, --criu to checkpoint and restore, those from --overlay to --host-uds to create and run, and --platform with its device to these two, do, doctor and features. What do and restore can't do of it they refuse. Other commands take these options, and do without: engines put the same ones before every command.`

const programExit = `0 if all went well, 1 if not, 3 if there is no such command. run and exec have the status of the program in the container, or 128 and the number of the signal that ended it.`

const programExamples = `# A shell in a root file system made from busybox:
mkdir -p b/rootfs/bin && cp /bin/busybox b/rootfs/bin/sh
hull spec --bundle b
hull run --bundle b box

# The same step by step, without a terminal:
sed -i 's/"terminal": true/"terminal": false/' b/config.json
hull create --bundle b web1 && hull start web1
hull list
hull delete --force web1`

const programEnvironment = `XDG_RUNTIME_DIR says where the states of containers are kept for other users than root. HULL_ISOLATION is what --isolation says. NOTIFY_SOCKET and LISTEN_FDS are passed on to the container, as sd_notify(3) and sd_listen_fds(3) have them.`

// printHelp prints what hull --help shows.
func (e *Env) printHelp() error {
	p := &printer{}
	programHelp(p, e.Name, e.globals.options)
	return p.writeTo(e.Stdout)
}

func programHelp(p page, name string, globals *optionSet) {
	p.section("NAME")
	p.phrase(name + " - " + programSummary)
	p.section("USAGE")
	p.phrase(name + " [global options] COMMAND [options] [arguments]")
	p.section("DESCRIPTION")
	p.text(programLong)
	p.section("COMMANDS")
	for _, c := range commands() {
		if !c.Hidden {
			p.entry(strings.Join(append([]string{c.Name}, c.Aliases...), ", "), 16, c.Summary)
		}
	}
	p.section("GLOBAL OPTIONS")
	describeOptions(p, globals)
	p.section("EXIT STATUS")
	p.text(programExit)
	p.section("ENVIRONMENT")
	p.text(programEnvironment)
	p.section("EXAMPLES")
	p.verbatim(programExamples)
}

// printCommandHelp prints what hull COMMAND --help shows.
func (e *Env) printCommandHelp(c *Command) error {
	p := &printer{}
	commandHelp(p, e.Name, c)
	return p.writeTo(e.Stdout)
}

func commandHelp(p page, name string, c *Command) {
	options, _ := c.options()
	p.section("NAME")
	p.phrase(name + " " + c.Name + " - " + c.Summary)
	p.section("USAGE")
	p.phrase(strings.TrimSpace(name + " " + c.Name + " " + c.Usage))
	if len(c.Aliases) > 0 {
		p.section("ALIASES")
		p.phrase(strings.Join(c.Aliases, ", "))
	}
	if c.Long != "" {
		p.section("DESCRIPTION")
		p.text(c.Long)
	}
	p.section("OPTIONS")
	describeOptions(p, options)
	p.section("EXIT STATUS")
	switch {
	case c.Exit != "":
		p.text(c.Exit)
	case c.Own:
		p.text("0 if all went well, 1 if not, 2 if the options can't be understood.")
	default:
		p.text("0 if all went well, 1 if not.")
	}
	if c.Examples != "" {
		p.section("EXAMPLES")
		p.verbatim(c.Examples)
	}
}

// printer makes a text of sections.
type printer struct {
	b strings.Builder
}

func (p *printer) writeTo(w io.Writer) error {
	_, err := io.WriteString(w, p.b.String())
	return err
}

func (p *printer) section(title string) {
	if p.b.Len() > 0 {
		p.b.WriteByte('\n')
	}
	p.b.WriteString(title + ":\n")
}

func (p *printer) phrase(s string) { p.filled(indent, s) }

// text prints paragraphs, which empty lines part. Lines that begin with a space stay as they are.
func (p *printer) text(s string) {
	for i, paragraph := range strings.Split(s, "\n\n") {
		if i > 0 {
			p.b.WriteByte('\n')
		}
		if strings.HasPrefix(paragraph, " ") {
			p.verbatim(paragraph)
			continue
		}
		p.filled(indent, paragraph)
	}
}

func (p *printer) verbatim(s string) {
	for line := range strings.Lines(s) {
		if line != "\n" {
			p.spaces(indent)
		}
		p.b.WriteString(line)
	}
	p.b.WriteByte('\n')
}

// filled prints s in lines of at most width, each after that many spaces.
func (p *printer) filled(left int, s string) {
	p.spaces(left)
	p.fill(left, left, s)
}

// fill prints s from column at on; further lines begin at column left.
func (p *printer) fill(at, left int, s string) {
	first := true
	for word := range strings.FieldsSeq(s) {
		switch {
		case first:
		case at+1+len(word) > width:
			p.b.WriteByte('\n')
			p.spaces(left)
			at = left
		default:
			p.b.WriteByte(' ')
			at++
		}
		p.b.WriteString(word)
		at += len(word)
		first = false
	}
	p.b.WriteByte('\n')
}

func (p *printer) spaces(n int) { p.b.WriteString(strings.Repeat(" ", n)) }

// entry prints a term and, from a column on, what it means; on a line of its own if the term is too long.
func (p *printer) entry(term string, column int, meaning string) {
	p.spaces(indent)
	p.b.WriteString(term)
	at := indent + len(term)
	if at+1 > column-1 {
		p.b.WriteByte('\n')
		at = 0
	}
	p.spaces(column - at)
	p.fill(column, column, meaning)
}

func describeOptions(p page, fs *optionSet) {
	for _, o := range fs.list {
		if o.hidden {
			continue
		}
		argument, meaning := o.usage()
		term := "    --" + o.Name
		if o.letter != "" {
			term = "-" + o.letter + ", --" + o.Name
		}
		if argument != "" {
			term += " " + argument
		}
		if o.hasDefault() {
			meaning += " (default " + o.DefValue + ")"
		}
		p.entry(term, column, meaning)
	}
}

// usage returns what help calls the argument, if there is one, and what it says of the option.
func (o *option) usage() (argument, meaning string) {
	argument, meaning = flag.UnquoteUsage(o.Flag)
	if v, ok := o.Value.(interface{ unit() string }); ok {
		argument = v.unit()
	}
	return argument, meaning
}

// hasDefault tells whether the default says more than that the option isn't given.
func (o *option) hasDefault() bool {
	switch o.DefValue {
	case "", "0", "0s", "false":
		return false
	}
	return true
}

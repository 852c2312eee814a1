package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"hull"
	"hull/internal/tty"
)

// logger writes what should be known: for people on standard error, and for the engine that called hull to the file of
// --log, in the form that engines read, of which they take the last line of level error:
//
//	time="2026-01-02T15:04:05Z" level=error msg="create web1: …"
//	{"level":"error","msg":"create web1: …","time":"2026-01-02T15:04:05Z"}
type logger struct {
	name   string
	stderr io.Writer
	file   io.Writer // of --log; or nil
	json   bool
	quiet  bool // warnings go to the file alone
	person bool // standard error is a terminal
}

// open opens the file of --log. It is never closed: the last line is written as the program ends.
func (l *logger) open(g globals) error {
	l.json = g.logFormat == "json"
	if g.log == "" {
		return nil
	}
	// O_SYNC: an engine looks as soon as hull has ended, and after a crash.
	f, err := os.OpenFile(g.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return fmt.Errorf("--log: %w", err)
	}
	l.file = f
	if stderr, ok := l.stderr.(*os.File); ok {
		l.person = tty.Is(stderr)
	}
	return nil
}

// debug logs a step. On standard error it comes as it is: many lines, for a person.
func (l *logger) debug(line string) {
	if l.file != nil {
		l.entry(l.file, "debug", line)
		return
	}
	l.tell("debug: ", line)
}

// warn logs what was tolerated. With a log file, standard error has it only if a person is there to read it: that of create,
// run and exec is the container's, too, so that engines have it in the container's log; and conmon takes its first bytes for
// the reason when create fails.
func (l *logger) warn(line string) {
	if l.file != nil {
		l.entry(l.file, "warning", line)
	}
	if l.quiet || l.file != nil && !l.person {
		return
	}
	l.tell("warning: ", line)
}

// fail logs why hull gives up.
func (l *logger) fail(err error) {
	messages := explain(err)
	if l.file != nil {
		var all []string
		for _, m := range messages {
			all = append(all, m.String())
		}
		l.entry(l.file, "error", strings.Join(all, "; "))
	}
	for _, m := range messages {
		if l.json && l.file == nil {
			l.entry(l.stderr, "error", m.String())
			continue
		}
		l.tell("", m.text)
		if m.hint != "" {
			fmt.Fprintf(l.stderr, "%*s%s\n", len(l.name)+2, "", m.hint)
		}
	}
}

func (l *logger) tell(prefix, line string) {
	if l.json && l.file == nil {
		l.entry(l.stderr, strings.TrimSuffix(prefix, ": "), line)
		return
	}
	// One write a line: several hulls may share the terminal.
	_, _ = io.WriteString(l.stderr, l.name+": "+prefix+line+"\n")
}

// entry writes a line of a log. That the log can't be written is no reason to stop.
func (l *logger) entry(w io.Writer, level, message string) {
	now := time.Now().Format(time.RFC3339)
	if !l.json {
		_, _ = io.WriteString(w, "time="+strconv.Quote(now)+" level="+level+" msg="+strconv.Quote(message)+"\n")
		return
	}
	b, err := json.Marshal(struct {
		Level   string `json:"level"`
		Message string `json:"msg"`
		Time    string `json:"time"`
	}{level, message, now})
	must(err)
	_, _ = w.Write(append(b, '\n'))
}

// message is what is told of an error.
type message struct {
	text string // one line
	hint string // another, or ""
}

func (m message) String() string {
	if m.hint == "" {
		return m.text
	}
	return m.text + " (" + m.hint + ")"
}

// explain returns the messages of an error: one for each that was joined, so each mistake of a file has its line.
func explain(err error) []message {
	if e, ok := err.(*hull.Error); ok {
		var all []message
		for _, cause := range joined(e.Err) {
			one := *e
			one.Err = cause
			all = append(all, message{one.Error(), hull.Hint(&one)})
		}
		if all != nil {
			return all
		}
	} else if causes := joined(err); causes != nil {
		var all []message
		for _, cause := range causes {
			all = append(all, explain(cause)...)
		}
		return all
	}
	// A line is a line, whatever a program or a path put into it.
	return []message{{strings.ReplaceAll(err.Error(), "\n", "; "), hull.Hint(err)}}
}

// joined returns the errors that errors.Join has made one of, and of these again; nil if err is a single one.
func joined(err error) (all []error) {
	if _, ok := err.(*hull.Error); ok {
		return nil // has several, too, but they are its kind and its cause
	}
	j, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	for _, one := range j.Unwrap() {
		if parts := joined(one); parts != nil {
			all = append(all, parts...)
		} else {
			all = append(all, one)
		}
	}
	return all
}

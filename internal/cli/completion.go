package cli

import (
	"fmt"
	"slices"
	"strings"

	"hull/internal/adopt"
)

func completionCommand() *Command {
	return &Command{
		Name:    "completion",
		Own:     true,
		Summary: "print what has a shell complete the command line",
		Usage:   "SHELL",
		Long:    `Prints a script for the shell named bash, zsh or fish, that has it complete commands, options, their values and the ids of containers.`,
		Exit:    `0 if all went well, 1 if not, 2 if there is no script for that shell.`,
		Examples: `# For this shell, or in its startup file:
source <(hull completion bash)

# For all:
hull completion bash >/usr/share/bash-completion/completions/hull
hull completion zsh >/usr/share/zsh/vendor-completions/_hull
hull completion fish >/usr/share/fish/vendor_completions.d/hull.fish`,
		Args: arity{1, 1},
		Run: func(env *Env, args []string) error {
			script := Completion(args[0])
			if script == "" {
				return misusedBy("completion", env, fmt.Errorf("no script for %q, only for %s", args[0], strings.Join(Shells, ", ")))
			}
			return env.write(script)
		},
	}
}

// Shells are those that there is a completion for.
var Shells = []string{"bash", "zsh", "fish"}

// Completion returns the script for a shell; "" if there is none.
func Completion(shell string) string {
	switch shell {
	case "bash":
		return bashCompletion()
	case "zsh":
		return zshCompletion()
	case "fish":
		return fishCompletion()
	}
	return ""
}

// completed is a command as shells need to know it. The one without a name is the program, before its command.
type completed struct {
	*Command
	names   []string
	options []*option
}

// completions returns the program and its commands.
func completions() []completed {
	fs := newOptions("hull")
	new(globals).register(fs)
	all := []completed{{Command: &Command{}, options: fs.shown()}}
	for _, c := range commands() {
		if !c.Hidden {
			fs, _ := c.options()
			all = append(all, completed{c, append([]string{c.Name}, c.Aliases...), fs.shown()})
		}
	}
	return all
}

// shown returns the options that help shows.
func (o *optionSet) shown() []*option {
	return slices.DeleteFunc(slices.Clone(o.list), func(o *option) bool { return o.hidden })
}

// words returns an option as it can be typed.
func (o *option) words() []string {
	if o.letter == "" {
		return []string{"--" + o.Name}
	}
	return []string{"-" + o.letter, "--" + o.Name}
}

// takes tells whether an option has a value that is the next word.
func (o *option) takes() bool { return !isBool(o.Flag) }

// names what an option's value, or an argument of a command's, is.
type valueKind int

const (
	anyValue valueKind = iota
	fileValue
	dirValue
	containerValue
	commandValue // of hull's
	programValue
	wordValue // one of a few
	noValue
)

func (o *option) kind() valueKind {
	argument, _ := o.usage()
	switch {
	case argument == "DIR":
		return dirValue
	case argument == "FILE", argument == "PATH", strings.HasPrefix(argument, "SRC"):
		return fileValue
	}
	return anyValue
}

// argument returns what the first argument is.
func (c *completed) argument() valueKind {
	_, rest, options := strings.Cut(c.Usage, "[options]")
	if !options {
		rest = c.Usage
	}
	switch first, _, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(rest), "[--]")), " "); first {
	case "CONTAINER-ID":
		return containerValue
	case "[COMMAND]":
		return commandValue
	case "COMMAND":
		return programValue
	case "SHELL", "ENGINE":
		return wordValue
	case "":
		return noValue
	}
	return anyValue
}

// words are those that the first argument is one of, if it is a wordValue.
func (c *completed) words() string {
	if strings.Contains(c.Usage, "ENGINE") {
		return strings.Join(adopt.Engines, " ")
	}
	return strings.Join(Shells, " ")
}

// stops tells whether options end with the first argument.
func (c *completed) stops() bool { return c.Parse == stopAtArgument }

// allWords returns the words of options that keep tells of.
func (c *completed) allWords(keep func(*option) bool) (words []string) {
	for _, o := range c.options {
		if keep(o) {
			words = append(words, o.words()...)
		}
	}
	return words
}

// shellWord quotes s for shells.
func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

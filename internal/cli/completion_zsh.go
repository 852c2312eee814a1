package cli

import (
	"fmt"
	"strings"
)

func zshCompletion() string {
	var b strings.Builder
	all := completions()
	b.WriteString(`#compdef hull hull-s
# zsh completion for hull, made by: hull completion zsh

_hull_commands() {
	local -a commands=(
`)
	for _, c := range all[1:] {
		for _, name := range c.names {
			fmt.Fprintf(&b, "\t\t%s\n", shellWord(strings.ReplaceAll(name, ":", `\:`)+":"+c.Summary))
		}
	}
	b.WriteString(`	)
	_describe -t commands command commands
}

_hull_containers() {
	local -a ids=(${(f)"$(_call_program containers $hull_program $hull_globals list --quiet 2>/dev/null)"})
	compadd -a ids
}

_hull() {
	local context state state_descr line curcontext="$curcontext"
	local hull_program=$words[1]
	local -a hull_globals
	typeset -A opt_args
	_arguments -C -s -S \
`)
	zshOptions(&b, all[0])
	b.WriteString(`		'1:command:_hull_commands' \
		'*::argument:->argument' && return
	[[ -n $opt_args[--root] ]] && hull_globals=(--root ${(Q)opt_args[--root]})
	case $line[1] in
`)
	for _, c := range all[1:] {
		fmt.Fprintf(&b, "\t%s)\n\t\t_arguments -s -S \\\n", strings.Join(c.names, "|"))
		zshOptions(&b, c)
		switch c.argument() {
		case containerValue:
			b.WriteString("\t\t\t'1:container:_hull_containers'")
			if c.Args.max != 1 {
				b.WriteString(" \\\n\t\t\t'*::argument:_normal'")
			}
		case commandValue:
			b.WriteString("\t\t\t'1:command:_hull_commands'")
		case wordValue:
			b.WriteString("\t\t\t'1: :(" + c.words() + ")'")
		case programValue:
			b.WriteString("\t\t\t'(-)1:command:_command_names -e' \\\n\t\t\t'*::argument:_normal'")
		case noValue:
			b.WriteString("\t\t\t'*: :'")
		default:
			b.WriteString("\t\t\t'*:argument:_files'")
		}
		b.WriteString("\n\t\t;;\n")
	}
	b.WriteString(`	esac
}

_hull "$@"
`)
	return b.String()
}

// zshOptions writes a line for each option.
func zshOptions(b *strings.Builder, c completed) {
	escape := strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`, `\`, `\\`)
	for _, o := range c.options {
		argument, meaning := o.usage()
		value := ""
		if o.takes() {
			value = ":" + escape.Replace(argument) + ":"
			switch {
			case o.values != nil:
				value += "(" + strings.Join(o.values, " ") + ")"
			case o.kind() == dirValue:
				value += "_files -/"
			case o.kind() == fileValue:
				value += "_files"
			}
		}
		names := shellWord("--" + o.Name + "[" + escape.Replace(meaning) + "]" + value)
		if o.letter != "" {
			names = fmt.Sprintf("'(-%s --%s)'{-%s,--%s}%s", o.letter, o.Name, o.letter, o.Name, shellWord("["+escape.Replace(meaning)+"]"+value))
		}
		if _, many := o.Value.(*stringList); many {
			names = shellWord("*--" + o.Name + "[" + escape.Replace(meaning) + "]" + value)
			if o.letter != "" {
				names = fmt.Sprintf("'*'{-%s,--%s}%s", o.letter, o.Name, shellWord("["+escape.Replace(meaning)+"]"+value))
			}
		}
		b.WriteString("\t\t" + names + " \\\n")
	}
}

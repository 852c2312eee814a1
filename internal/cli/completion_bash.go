package cli

import (
	"fmt"
	"strings"
)

// bashCompletion needs nothing of the package bash-completion.
func bashCompletion() string {
	var b strings.Builder
	all := completions()
	program := all[0]
	var names []string
	for _, c := range all[1:] {
		names = append(names, c.names...)
	}
	b.WriteString(`# bash completion for hull, made by: hull completion bash

_hull() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local command= argument= i word globals=()
	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		case $word in
` + bashCase(program.allWords((*option).takes), `globals+=("$word" "${COMP_WORDS[++i]}")`) + `		-*) globals+=("$word") ;;
		*) command=$word; break ;;
		esac
	done
	((i > COMP_CWORD)) && command=
	case $command in
	'')
` + bashOptions(program) + `		_hull_reply "` + strings.Join(program.allWords(func(*option) bool { return true }), " ") + `" "` + strings.Join(names, " ") + `"
		;;
`)
	for _, c := range all[1:] {
		fmt.Fprintf(&b, "\t%s)\n", strings.Join(c.names, "|"))
		b.WriteString("\t\tfor ((i++; i < COMP_CWORD; i++)); do\n\t\t\tcase ${COMP_WORDS[i]} in\n")
		if words := c.allWords((*option).takes); len(words) > 0 {
			b.WriteString("\t" + bashCase(words, "((i++))"))
		}
		b.WriteString("\t\t\t--) argument=${COMP_WORDS[i+1]}; ((i + 1 < COMP_CWORD)) || argument=; break ;;\n\t\t\t-*) ;;\n\t\t\t*) argument=${COMP_WORDS[i]}; break ;;\n\t\t\tesac\n\t\tdone\n")
		if c.stops() {
			b.WriteString("\t\tif [[ $argument ]]; then\n\t\t\tcompopt -o default 2>/dev/null\n\t\t\treturn\n\t\tfi\n")
		}
		b.WriteString(bashOptions(c))
		arguments := ""
		switch c.argument() {
		case containerValue:
			arguments = `$([[ $argument ]] || "${COMP_WORDS[0]}" "${globals[@]}" list --quiet 2>/dev/null)`
		case commandValue:
			arguments = strings.Join(names, " ")
		case wordValue:
			arguments = c.words()
		case programValue:
			arguments = `$([[ $cur == -* ]] || compgen -c -- "$cur")`
		}
		fmt.Fprintf(&b, "\t\t_hull_reply \"%s\" \"%s\"\n\t\t;;\n", strings.Join(c.allWords(func(*option) bool { return true }), " "), arguments)
	}
	b.WriteString(`	esac
}

_hull_reply() {
	if [[ $cur == -* ]]; then
		COMPREPLY=($(compgen -W "$1" -- "$cur"))
	else
		COMPREPLY=($(compgen -W "$2" -- "$cur"))
	fi
}

complete -F _hull hull hull-s
`)
	return b.String()
}

func bashCase(words []string, do string) string {
	return "\t\t" + strings.Join(words, "|") + ") " + do + " ;;\n"
}

// bashOptions completes the value of an option.
func bashOptions(c completed) string {
	var b strings.Builder
	kinds := map[valueKind][]string{}
	b.WriteString("\t\tcase $prev in\n")
	for _, o := range c.options {
		switch {
		case !o.takes():
		case o.values != nil:
			b.WriteString(bashCase(o.words(), fmt.Sprintf(`COMPREPLY=($(compgen -W "%s" -- "$cur")); return`, strings.Join(o.values, " "))))
		default:
			kinds[o.kind()] = append(kinds[o.kind()], o.words()...)
		}
	}
	for _, k := range []struct {
		kind valueKind
		do   string
	}{
		{dirValue, "compopt -o nospace -o dirnames 2>/dev/null; return"},
		{fileValue, "compopt -o default 2>/dev/null; return"},
		{anyValue, "return"},
	} {
		if len(kinds[k.kind]) > 0 {
			b.WriteString(bashCase(kinds[k.kind], k.do))
		}
	}
	b.WriteString("\t\tesac\n")
	if b.String() == "\t\tcase $prev in\n\t\tesac\n" {
		return ""
	}
	return b.String()
}

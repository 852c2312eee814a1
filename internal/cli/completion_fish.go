package cli

import (
	"fmt"
	"strings"
)

func fishCompletion() string {
	var b strings.Builder
	all := completions()
	var names []string
	for _, c := range all[1:] {
		names = append(names, c.names...)
	}
	valued := all[0].allWords((*option).takes)
	fmt.Fprintf(&b, `# fish completion for hull, made by: hull completion fish

# The command on the line, if there is one.
function __hull_command
	set -l words (commandline -opc)
	set -e words[1]
	while set -q words[1]
		if contains -- $words[1] %s
			set -e words[1]
		else if not string match -q -- '-*' $words[1]
			echo $words[1]
			return
		end
		set -e words[1]
	end
	return 1
end

# Whether that is one of these.
function __hull_in
	set -l command (__hull_command)
	and contains -- $command $argv
end

function __hull_containers
	set -l words (commandline -opc)
	set -l root
	for i in (seq 2 (count $words))
		test $words[$i] = --root
		and set root --root $words[(math $i + 1)]
	end
	$words[1] $root list --quiet 2>/dev/null
end

complete -c hull -f
`, strings.Join(valued, " "))
	for _, c := range all[1:] {
		for _, name := range c.names {
			fmt.Fprintf(&b, "complete -c hull -n 'not __hull_command' -a %s -d %s\n", name, fishWord(c.Summary))
		}
	}
	for i, c := range all {
		when := "__hull_in " + strings.Join(c.names, " ")
		if i == 0 {
			when = "not __hull_command"
		}
		for _, o := range c.options {
			_, meaning := o.usage()
			line := fmt.Sprintf("complete -c hull -n '%s' -l %s", when, o.Name)
			if o.letter != "" {
				line += " -s " + o.letter
			}
			switch {
			case !o.takes():
			case o.values != nil:
				line += " -x -a " + fishWord(strings.Join(o.values, " "))
			case o.kind() == dirValue:
				line += " -x -a '(__fish_complete_directories)'"
			case o.kind() == fileValue:
				line += " -r -F"
			default:
				line += " -x"
			}
			b.WriteString(line + " -d " + fishWord(meaning) + "\n")
		}
		if i == 0 {
			continue
		}
		arguments := ""
		switch c.argument() {
		case containerValue:
			arguments = "-a '(__hull_containers)'"
		case commandValue:
			arguments = "-a " + fishWord(strings.Join(names, " "))
		case wordValue:
			arguments = "-a " + fishWord(c.words())
		case programValue:
			arguments = "-F -a '(__fish_complete_command)'"
		case anyValue:
			arguments = "-F"
		default:
			continue
		}
		fmt.Fprintf(&b, "complete -c hull -n '%s' %s\n", when, arguments)
	}
	b.WriteString("complete -c hull-s -w hull\n")
	return b.String()
}

// fishWord quotes s for fish, whose quotes know backslashes.
func fishWord(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

package cli

import (
	"fmt"
)

// Command is a verb of the command line.
type Command struct {
	Name    string
	Aliases []string
	Hidden  bool   // works, but isn't listed
	Own     bool   // other runtimes don't have it: a mistake on its command line has exitUsage
	Summary string // a phrase, for the list of commands
	Usage   string // the arguments: "[options] CONTAINER-ID"

	// What --help says beside the flags. Paragraphs are filled; lines that begin with a space stay as they are.
	Long     string
	Exit     string // about the exit status, where it isn't just 0 and 1
	Examples string // commands as one types them, with comments: lines that begin with #

	Args  arity
	Parse parseMode
	Flags func(fs *optionSet) // declares the options, but for --help
	Run   func(env *Env, args []string) error
}

// commands makes all commands, in the order that help lists them.
func commands() []*Command {
	return []*Command{
		createCommand(),
		startCommand(),
		runCommand(),
		doCommand(),
		execCommand(),
		stateCommand(),
		listCommand(),
		psCommand(),
		portForwardCommand(),
		killCommand(),
		waitCommand(),
		deleteCommand(),
		pauseCommand(),
		resumeCommand(),
		updateCommand(),
		eventsCommand(),
		usageCommand(),
		metricServerCommand(),
		poolCommand(),
		debugCommand(),
		specCommand(),
		featuresCommand(),
		doctorCommand(),
		installCommand(),
		uninstallCommand(),
		cpuFeaturesCommand(),
		checkpointCommand(),
		restoreCommand(),
		completionCommand(),
		helpCommand(),
	}
}

// options returns the command's options, and where the value of --help will be.
func (c *Command) options() (fs *optionSet, help *bool) {
	fs, help = newOptions(c.Name), new(bool)
	if c.Flags != nil {
		c.Flags(fs)
	}
	fs.boolVar(help, "help, h", "show this text and exit")
	return fs, help
}

// misused gives a mistake on the command line its exit status.
func (c *Command) misused(err error) error {
	if c.Own {
		return statusError{exitUsage, err}
	}
	return err
}

// lookup returns the command with that name or alias, or nil.
func lookup(name string) *Command {
	for _, c := range commands() {
		if c.Name == name {
			return c
		}
		for _, alias := range c.Aliases {
			if alias == name {
				return c
			}
		}
	}
	return nil
}

// arity is how many arguments a command takes: at least min, and at most max unless that is negative.
type arity struct{ min, max int }

const anyNumber = -1

func (a arity) check(n int) error {
	switch {
	case a.min == a.max && n != a.min:
		return fmt.Errorf("got %s, want %d", count(n), a.min)
	case n < a.min:
		return fmt.Errorf("got %s, want at least %d", count(n), a.min)
	case a.max >= 0 && n > a.max:
		return fmt.Errorf("got %s, want at most %d", count(n), a.max)
	}
	return nil
}

func count(n int) string {
	switch n {
	case 0:
		return "no arguments"
	case 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

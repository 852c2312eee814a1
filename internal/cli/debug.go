package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"hull"
)

// debugReports are the options by which debug shows something. Those with a file are profiles.
var debugReports = []struct {
	option string
	report hull.DebugReport
	file   bool
	usage  string
}{
	{"stacks", hull.DebugStacks, false, "print what each of the kernel's goroutines does"},
	{"memory", hull.DebugMemory, false, "print what the memory is used for, in bytes, as JSON"},
	{"files", hull.DebugFiles, false, "print the open files of the processes: pid, descriptor and path"},
	{"profile-cpu", hull.DebugCPU, true, "write to `FILE` where the kernel spends its time"},
	{"profile-heap", hull.DebugHeap, true, "write to `FILE` what holds the kernel's own memory"},
	{"profile-goroutine", hull.DebugGoroutines, true, "write to `FILE` where the kernel's goroutines are"},
	{"profile-block", hull.DebugBlock, true, "write to `FILE` where they wait for each other"},
	{"profile-mutex", hull.DebugMutex, true, "write to `FILE` where they have others wait"},
}

func debugCommand() *Command {
	var o hull.DebugOptions
	var options *optionSet
	shown := make([]bool, len(debugReports))
	files := make([]string, len(debugReports))
	return &Command{
		Name:    "debug",
		Summary: "show what a sandbox's kernel does",
		Usage:   "[options] CONTAINER-ID",
		Long: `Shows one thing that the kernel of a container in a sandbox knows about itself, or sets what it logs. It goes on meanwhile.

Profiles are read by go tool pprof. FILE is written anew; - is standard output.

The log is sandbox.log in the container's state directory. It ends after 1 MiB, or after another 64 MiB from when more than warnings are asked for.`,
		Examples: `hull debug --stacks web1
hull debug --profile-cpu cpu.pprof --duration 10s web1
hull debug --strace openat,connect web1`,
		Own:  true,
		Args: arity{1, 1},
		Flags: func(fs *optionSet) {
			options = fs
			for i, r := range debugReports {
				if r.file {
					fs.stringVar(&files[i], r.option, "", r.usage)
				} else {
					fs.boolVar(&shown[i], r.option, r.usage)
				}
			}
			fs.durationVar(&o.Duration, "duration", 30*time.Second, "make the profile of CPU, block or mutex for that `TIME`")
			fs.stringVar(&o.LogLevel, "log-level", "", "log from now on what is a warning, info or debug: `LEVEL`")
			fs.offer("warning", "info", "debug")
			fs.stringVar(&o.Strace, "strace", "", "log from now on the system calls of the container's programs: off, all, or `NAMES` with commas between")
		},
		Run: func(env *Env, args []string) error {
			file := ""
			var given []string
			for i, r := range debugReports {
				if shown[i] || options.given(r.option) && r.file {
					o.Report, file = r.report, files[i]
					given = append(given, "--"+r.option)
				}
			}
			wrong := func(format string, a ...any) error {
				return statusError{exitUsage, env.usage("debug", fmt.Errorf(format, a...))}
			}
			switch isFile := len(given) == 1 && strings.HasPrefix(given[0], "--profile"); {
			case len(given) > 1:
				return wrong("more than one of %s", strings.Join(given, " and "))
			case len(given) == 0 && o.LogLevel == "" && o.Strace == "":
				return wrong("nothing to do")
			case o.LogLevel != "" && o.LogLevel != "warning" && o.LogLevel != "info" && o.LogLevel != "debug":
				return wrong("--log-level %q: want warning, info or debug", o.LogLevel)
			case isFile && file == "":
				return wrong("%s: want a file", given[0])
			case options.given("duration") && !isFile:
				return wrong("--duration is of profiles")
			}
			c, err := env.container("debug", args[0])
			if err != nil {
				return err
			}
			if file == "" || file == "-" {
				return c.Debug(env.Stdout, o)
			}
			return env.writeProfile(c, o, file)
		},
	}
}

// writeProfile writes a profile to a file, which is taken away if there is none.
func (e *Env) writeProfile(c *hull.Container, o hull.DebugOptions, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return inOp("debug", c.ID(), err)
	}
	err = c.Debug(f, o)
	if cerr := f.Close(); err == nil {
		err = inOp("debug", c.ID(), cerr)
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

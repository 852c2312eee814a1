package oci

import (
	"math"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/caps"
	"hull/internal/task"
)

func (k *checker) process(p *specs.Process) {
	if p.Terminal && p.ConsoleSize != nil {
		k.consoleSize(p.ConsoleSize)
	}
	_, err := task.Credentials(p.User)
	k.take(err)
	_, _, err = task.Umask(p.User)
	k.take(err)
	if p.User.Username != "" {
		k.warn("process.user.username", "not used: on Linux uid and gid say who the user is")
	}
	switch {
	case len(p.Args) == 0:
		k.mistake("process.args", "empty: there is nothing to run")
	case p.Args[0] == "":
		k.mistake("process.args[0]", "empty: there is nothing to run")
	}
	if p.CommandLine != "" {
		k.refuse("process.commandLine", "a command line for Windows: put the program and its arguments into args")
	}
	k.env(p.Env)
	k.absolute("process.cwd", p.Cwd)
	k.capabilities(p.Capabilities)
	_, err = task.Rlimits(p.Rlimits)
	k.take(err)
	k.scheduling(p)
}

// consoleSize checks for the two bytes of struct winsize (ioctl_tty(2)).
func (k *checker) consoleSize(b *specs.Box) {
	if b.Height > math.MaxUint16 {
		k.mistake("process.consoleSize.height", "%d is out of range, want 0 to %d", b.Height, math.MaxUint16)
	}
	if b.Width > math.MaxUint16 {
		k.mistake("process.consoleSize.width", "%d is out of range, want 0 to %d", b.Width, math.MaxUint16)
	}
}

func (k *checker) env(env []string) {
	for i, v := range env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			k.mistake(elem("process.env", i), "got %s, want NAME=VALUE", quote(v))
		}
	}
}

func (k *checker) scheduling(p *specs.Process) {
	if p.OOMScoreAdj != nil {
		_, err := task.OOMScoreAdj(*p.OOMScoreAdj)
		k.take(err)
	}
	if p.Scheduler != nil {
		_, err := task.Scheduler(p.Scheduler)
		k.take(err)
	}
	if p.IOPriority != nil {
		_, err := task.IOPriority(p.IOPriority)
		k.take(err)
	}
	if a := p.ExecCPUAffinity; a != nil &&
		k.listFits("process.execCPUAffinity.initial", a.Initial) && k.listFits("process.execCPUAffinity.final", a.Final) {
		_, err := task.CPUAffinity(a)
		k.take(err)
	}
}

// listFits bounds a list of CPUs or memory nodes. All 8192 CPUs one by one are shorter; what is longer repeats ranges.
func (k *checker) listFits(field, list string) bool {
	const longest = 64 << 10
	if len(list) > longest {
		k.mistake(field, "%d bytes, want at most %d", len(list), longest)
	}
	return len(list) <= longest
}

// capabilities warns of what the kernel will not grant. By the specification that is never a mistake: "Runtimes SHOULD
// NOT fail if the container configuration requests capabilities that cannot be granted".
func (k *checker) capabilities(c *specs.LinuxCapabilities) {
	const most = 1024 // names in a set, known or not: they are compared with each other
	if c == nil {
		return
	}
	for _, names := range [...][]string{c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient} {
		if len(names) > most {
			k.mistake("process.capabilities", "%d names in a set, want at most %d", len(names), most)
			return
		}
	}
	sets, unknown := caps.FromSpec(c)
	for _, name := range unknown {
		guess := ""
		if meant := caps.Meant(name); meant != "" {
			guess = ": did you mean " + meant + "?"
		}
		k.warn("process.capabilities", "no capability has the name %s: not granted%s", quote(name), guess)
	}
	notGranted := func(set string, missing caps.Set, why string) {
		if missing != 0 {
			k.warn("process.capabilities."+set, "%s: %s", missing, why)
		}
	}
	notGranted("effective", sets.Effective&^sets.Permitted,
		"not granted: only a permitted capability can be effective")
	notGranted("inheritable", sets.Inheritable&^sets.Bounding,
		"not granted: only a capability in the bounding set can be inheritable")
	// Files of before CVE-2022-24769 was mended, and Buildah's for each RUN, fill the ambient set and leave the inheritable
	// one empty. That is no mistake about some capability, and a line at each step of a build would help nobody.
	if sets.Inheritable != 0 {
		notGranted("ambient", sets.Ambient&^(sets.Permitted&sets.Inheritable),
			"not granted: only a capability that is permitted and inheritable can be ambient")
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"hull"
	"hull/internal/cgroup"
	"hull/spec"
)

func specCommand() *Command {
	var bundle, cwd, netns string
	var rootless, stdout, check bool
	var options *optionSet
	return &Command{
		Name:    "spec",
		Summary: "write a config.json to begin with, or check one",
		Usage:   "[options] [-- PROGRAM [ARGUMENT...]]",
		Long: `Writes config.json into a bundle: a configuration that runs sh, or the program that is given after --, with a terminal, in namespaces of its own, and with few capabilities, on a root file system in the directory rootfs, which it can't change. It is meant to be edited.

A file that is there already is never overwritten.

With --check nothing is written and nothing is made. What is wrong with the config.json that is there is told, all of it: the mistakes of the file or, if it has none, what this host or the isolation lacks of it, and which files it names that aren't there. Whether the root file system has the program, and what only the kernel can tell, shows when the container is made.

For a caller who isn't root, --rootless makes one that needs no privileges: with a user namespace, in which root is the caller, without limits, and in the host's network.`,
		Examples: `mkdir -p box/rootfs/bin && cp /bin/busybox box/rootfs/bin/
hull spec --bundle box -- /bin/busybox sh
hull run --bundle box box
hull --isolation sandbox spec --check --bundle box`,
		Args: arity{0, anyNumber},
		Flags: func(fs *optionSet) {
			options = fs
			fs.stringVar(&bundle, "bundle, b", "", "`DIR` of config.json (default: the working directory)")
			fs.boolVar(&check, "check", "say what is wrong with the config.json that is there, and write nothing")
			fs.boolVar(&rootless, "rootless", "make a configuration for a caller without privileges")
			fs.stringVar(&cwd, "cwd", "", "working directory `DIR` of the program, absolute (default /)")
			fs.stringVar(&netns, "netns", "", "join the network namespace at `PATH`, absolute (default: a new one)")
			fs.boolVar(&stdout, "print", "write to standard output instead")
		},
		Run: func(env *Env, args []string) error {
			if len(args) > 0 && options.ended != 0 {
				return env.usage("spec", errors.New("the program comes after --"))
			}
			if check {
				if len(args) > 0 || rootless || stdout || cwd != "" || netns != "" {
					return env.usage("spec", errors.New("--check goes with --bundle alone: it writes nothing"))
				}
				return env.checkSpec(bundle)
			}
			o := spec.Options{
				Args: args, Cwd: cwd, NetNS: netns, CgroupV1: cgroup.Detect() != cgroup.V2,
				Rootless: rootless, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
			}
			if err := o.Check(); err != nil {
				return &hull.Error{Op: "spec", Err: err}
			}
			if stdout {
				return spec.Print(env.Stdout, spec.Example(o))
			}
			return spec.Write(bundle, spec.Example(o))
		},
	}
}

// checkSpec tells what is wrong with the configuration of a bundle, or that nothing is.
func (e *Env) checkSpec(bundle string) error {
	isolation, err := e.Runtime().Check(context.Background(), hull.CreateOptions{Bundle: bundle})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.Stdout, "%s: nothing is wrong for %s isolation\n", filepath.Join(bundle, "config.json"), isolation)
	return err
}

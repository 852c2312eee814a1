// Package pause has the first process of a pod that has no container for it: a program of a few instructions that waits
// without end.
package pause

import "hull/internal/elf"

// File is the program's name in the pod's root file system.
const File = "pause"

// Calls are the system calls of the process from the moment that its filter is there.
var Calls = []string{"execve", "rt_sigaction", "pause", "ppoll", "restart_syscall", "exit", "exit_group"}

// User is who the process is: nobody else's process, and not root's, so that a container that sees it can't trace it.
const User = 65535

// Program returns a static program for this machine that waits without end. It ignores SIGCHLD, so that the kernel takes
// away the orphans of a pid namespace that it is process 1 of; as such it gets no other signal than SIGKILL.
//
// The image of a pause container is 300 KB that a node has to have fetched; all that is needed of it are these instructions.
func Program() []byte {
	p := elf.Program{Text: code()}
	return p.File()
}

// ignore is the kernel's struct sigaction (rt_sigaction(2)) with SIG_IGN as its handler.
func ignore() []byte { return append([]byte{1}, make([]byte, 31)...) }

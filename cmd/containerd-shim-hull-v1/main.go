// Command containerd-shim-hull-v1 is containerd's runtime io.containerd.hull.v1: containerd starts it, see package shim. It isn't
// called by people. Called by the name containerd-shim-hull-sandbox-v1 it gives containers a kernel of their own.
package main

import (
	"fmt"
	"os"

	"hull/internal/shim"
)

func main() {
	out, err := shim.Run(os.Args, os.Stdin)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(out); err != nil {
		os.Exit(1)
	}
}

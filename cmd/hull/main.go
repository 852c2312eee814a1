// Two things of Go's runtime are no use to a program that lives for milliseconds, or waits: a goroutine that follows the
// limits of hull's own cgroup, and with it a look at them each second; and names for the runtime's mappings, which are a
// prctl(2) each.

//go:debug updatemaxprocs=0
//go:debug decoratemappings=0

// Command hull runs OCI containers. hull --help says how.
package main

import (
	"os"

	"hull/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args))
}

// The process of a sandbox is one of the host's, which hull's cgroup limits: it has as many processors as its kernel shows.

//go:debug updatemaxprocs=0
//go:debug decoratemappings=0

// Command hull-sandbox is the kernel of one sandbox: hull starts it, see package boot. It isn't called by people.
package main

import (
	"os"

	"hull/internal/sentry/boot"
)

// release is that of hull. It is set when hull-sandbox is built.
var release = "0.1.0-dev"

func main() {
	os.Exit(boot.Main(os.Args, release))
}

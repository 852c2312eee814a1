// Command hull runs OCI containers. hull --help says how.
package main

import (
	"os"

	"hull/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args))
}

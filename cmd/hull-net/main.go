// Command hull-net is the network of one container: hull starts it, see package nat. It isn't called by people.
package main

import (
	"fmt"
	"os"

	"hull/internal/natd"
)

// control is the number of the descriptor that hull passes.
const control = 3

func main() {
	if len(os.Args) != 1 || !natd.IsControl(control) {
		fmt.Fprintln(os.Stderr, "hull-net is started by hull: hull do --network nat")
		os.Exit(2)
	}
	if err := natd.Serve(os.NewFile(control, "control")); err != nil {
		fmt.Fprintln(os.Stderr, "hull-net:", err)
		os.Exit(1)
	}
}

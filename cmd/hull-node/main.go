// Command hull-node puts hull onto a node of a Kubernetes cluster, out of a container of a DaemonSet.
package main

import (
	"os"

	"hull/internal/node"
)

func main() {
	os.Exit(node.Main(os.Args))
}

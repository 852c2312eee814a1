// Command hull-metrics tells Prometheus what containers use: hull metric-server starts it, or a service manager.
package main

import (
	"os"

	"hull/internal/metrics"
)

func main() {
	os.Exit(metrics.Main(os.Args))
}

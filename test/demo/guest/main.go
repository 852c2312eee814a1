// Command guest says where it runs. It is the demonstration's container where there is no busybox.
package main

import (
	"fmt"
	"os"
)

func main() {
	host, err := os.Hostname()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("Hello from %s, process %d, user %d.\n", host, os.Getpid(), os.Getuid())
}

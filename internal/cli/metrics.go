package cli

import (
	"os"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/install"
)

func metricServerCommand() *Command {
	var listen string
	return &Command{
		Name:    "metric-server",
		Summary: "tell Prometheus what containers use",
		Usage:   "[options]",
		Long: `Answers requests for /metrics with what all containers of --root use, in the text form of Prometheus, until it is ended. It becomes the program hull-metrics, which is installed beside hull.

Whoever reaches the address can ask: on the loopback that is every user of the host, on a socket of the file system its owner.`,
		Examples: `hull metric-server
hull metric-server --listen unix:/run/hull-metrics.sock`,
		Own:  true,
		Args: arity{0, 0},
		Flags: func(fs *optionSet) {
			fs.stringVar(&listen, "listen", hull.MetricsAddress, "listen at `ADDRESS`, HOST:PORT or unix:PATH")
		},
		Run: func(env *Env, _ []string) error {
			path, err := install.Path("metric-server: look for the program hull-metrics", "hull-metrics")
			if err != nil {
				return err
			}
			args := []string{"hull-metrics", "--listen", listen}
			if root := env.globals.root; root != "" {
				args = append(args, "--root", root)
			}
			return &os.PathError{Op: "execve", Path: path, Err: unix.Exec(path, args, os.Environ())}
		},
	}
}

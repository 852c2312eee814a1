package cli

import (
	"fmt"

	"hull"
)

// networkFlags are what do takes for its network.
type networkFlags struct {
	network string
	ip      string
	publish []string
	allow   []string
}

func (f *networkFlags) register(fs *optionSet) {
	fs.stringVar(&f.network, "network", string(hull.NetworkNone), "what the command reaches: `KIND` none, a loopback of its own, since what can read files of the host should not be able to send them away; host, all that the host reaches and listens to; or nat, what lies beyond the host")
	fs.offer(string(hull.NetworkNone), string(hull.NetworkHost), string(hull.NetworkNAT))
	fs.stringsVar(&f.allow, "allow", "with nat: let the command reach nothing but `HOST[:PORT]`, and what else is given so: a name, *.NAME for all below it, an address or a network; what was refused is told at the end")
	fs.stringsVar(&f.publish, "publish, p", "with nat: have a port of the host's lead to one of the command's: `[HOST:]PORT:PORT`; 127.0.0.1 is the host's address if none is given")
	fs.stringVar(&f.ip, "ip", "", "with nat: the command's IPv4 `ADDRESS`; one that the host doesn't use if it is not given")
}

func (f *networkFlags) apply(cmd *hull.Cmd) {
	cmd.Network, cmd.IP, cmd.Publish, cmd.Allow = hull.Network(f.network), f.ip, f.publish, f.allow
}

// tellRefused tells what a command was kept from.
func (e *Env) tellRefused(cmd *hull.Cmd) {
	for _, r := range cmd.Result.Refused {
		e.log.warn("network nat: refused " + r.String())
	}
	if cmd.Result.RefusedMore > 0 {
		e.log.warn(fmt.Sprintf("network nat: refused %d more", cmd.Result.RefusedMore))
	}
}

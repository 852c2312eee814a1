package natd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"

	"hull/internal/nat"
)

const (
	// queryTimeout and queryAttempts are those of resolv.conf(5).
	queryTimeout  = 5 * time.Second
	queryAttempts = 2
	// maxQueries bounds questions that wait for an answer.
	maxQueries = 256
	maxDNS     = 65535
)

// resolver passes the container's questions on to the host's name servers. It is at the host's side of the network, so
// that a name server on the host's loopback is reached like any other.
type resolver struct {
	file   string
	policy *policy
	slots  chan struct{}
}

func newResolver(file string, p *policy) *resolver {
	return &resolver{file: file, policy: p, slots: make(chan struct{}, maxQueries)}
}

// read returns the host's resolv.conf as it is now: a laptop moves from one network to another.
func (r *resolver) read() []byte {
	conf, err := os.ReadFile(r.file)
	if err != nil {
		return nil
	}
	return conf
}

func (r *resolver) servers() []netip.AddrPort { return nameServers(r.read()) }

// serve answers at the gateway's address.
func (r *resolver) serve(g *gateway, p plan) error {
	at := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(p.gateway4.AsSlice()), Port: 53}
	packets, err := gonet.DialUDP(g.Stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	l, err := gonet.ListenTCP(g.Stack, at, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("resolver: %w", err)
	}
	go r.servePackets(packets)
	go r.serveConns(l)
	return nil
}

func (r *resolver) servePackets(c net.PacketConn) {
	p := make([]byte, maxDNS)
	for {
		n, from, err := c.ReadFrom(p)
		if err != nil {
			return
		}
		query := append([]byte(nil), p[:n]...)
		select {
		case r.slots <- struct{}{}:
		default:
			continue // it will ask again
		}
		go func() {
			defer func() { <-r.slots }()
			if answer := r.answer("udp", query); answer != nil {
				_, _ = c.WriteTo(answer, from)
			}
		}()
	}
}

func (r *resolver) serveConns(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for {
				_ = c.SetReadDeadline(time.Now().Add(flowTimeout))
				query, err := readDNS(c)
				if err != nil {
					return
				}
				r.slots <- struct{}{}
				answer := r.answer("tcp", query)
				<-r.slots
				if answer == nil || writeDNS(c, answer) != nil {
					return
				}
			}
		}()
	}
}

// answer returns what the container gets: nil if what it sent is no question.
func (r *resolver) answer(network string, query []byte) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil || h.Response || h.OpCode != 0 {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	ports, ok := r.policy.ports(name)
	if !ok {
		r.policy.refuse(nat.Refusal{Protocol: "dns", Host: name})
		// That it doesn't exist ends the search. A refusal, which it is, lets some resolvers ask again and again.
		return reply(h, q, dnsmessage.RCodeNameError)
	}
	address := q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA
	if r.policy.limited && !address {
		return reply(h, q, dnsmessage.RCodeSuccess)
	}
	answer, err := r.forward(network, query, q)
	if err != nil {
		return reply(h, q, dnsmessage.RCodeServerFailure)
	}
	if r.policy.limited {
		r.pin(name, ports, answer)
	}
	return answer
}

// reply is an answer without records.
func reply(h dnsmessage.Header, q dnsmessage.Question, code dnsmessage.RCode) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true, RCode: code})
	if b.StartQuestions() != nil || b.Question(q) != nil {
		return nil
	}
	p, err := b.Finish()
	if err != nil {
		return nil
	}
	return p
}

// pin lets the container reach the addresses in an answer.
func (r *resolver) pin(name string, ports []uint16, answer []byte) {
	var m dnsmessage.Parser
	if _, err := m.Start(answer); err != nil || m.SkipAllQuestions() != nil {
		return
	}
	for {
		h, err := m.AnswerHeader()
		if err != nil {
			return
		}
		ttl := time.Duration(min(h.TTL, 24*3600)) * time.Second
		switch h.Type {
		case dnsmessage.TypeA:
			a, err := m.AResource()
			if err != nil {
				return
			}
			r.policy.hand(name, ports, netip.AddrFrom4(a.A), ttl)
		case dnsmessage.TypeAAAA:
			a, err := m.AAAAResource()
			if err != nil {
				return
			}
			r.policy.hand(name, ports, netip.AddrFrom16(a.AAAA), ttl)
		default:
			if m.SkipAnswer() != nil {
				return
			}
		}
	}
}

// forward asks the host's name servers in turn.
func (r *resolver) forward(network string, query []byte, q dnsmessage.Question) ([]byte, error) {
	var last error
	servers := r.servers()
	for range queryAttempts {
		for _, s := range servers {
			answer, err := exchange(network, s, query, q)
			if err == nil {
				return answer, nil
			}
			last = err
		}
	}
	return nil, last
}

// exchange asks one server, with a number and from a port of its own, so that nobody can guess both.
func exchange(network string, server netip.AddrPort, query []byte, q dnsmessage.Question) ([]byte, error) {
	c, err := net.DialTimeout(network, server.String(), queryTimeout)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(queryTimeout))
	id := uint16(rand.Uint32())
	asked := append([]byte(nil), query...)
	binary.BigEndian.PutUint16(asked, id)
	if network == "tcp" {
		err = writeDNS(c, asked)
	} else {
		_, err = c.Write(asked)
	}
	if err != nil {
		return nil, err
	}
	for {
		var answer []byte
		if network == "tcp" {
			answer, err = readDNS(c)
		} else {
			answer = make([]byte, maxDNS)
			var n int
			n, err = c.Read(answer)
			answer = answer[:n]
		}
		if err != nil {
			return nil, err
		}
		if answers(answer, id, q) {
			copy(answer, query[:2])
			return answer, nil
		}
		if network == "tcp" {
			return nil, errors.New("an answer to another question")
		}
	}
}

// answers tells whether a message answers a question.
func answers(p []byte, id uint16, q dnsmessage.Question) bool {
	var m dnsmessage.Parser
	h, err := m.Start(p)
	if err != nil || !h.Response || h.ID != id {
		return false
	}
	got, err := m.Question()
	return err == nil && got.Type == q.Type && got.Class == q.Class && strings.EqualFold(got.Name.String(), q.Name.String())
}

// readDNS and writeDNS are the framing of RFC 1035, section 4.2.2.
func readDNS(c io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, p)
	return p, err
}

func writeDNS(c io.Writer, p []byte) error {
	if len(p) > maxDNS {
		return errors.New("a message that is too long")
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
	return err
}

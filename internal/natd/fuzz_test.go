package natd

import (
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"hull/internal/nat"
)

// Questions come from the container and answers from servers of the host's choice, or of somebody between. What is made of
// them must be a message, and no address that may be reached but those of an answer's own records.
func FuzzDNS(f *testing.F) {
	q := dnsmessage.Question{Name: dnsmessage.MustNewName("a.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 1, Response: true})
	_ = b.StartQuestions()
	_ = b.Question(q)
	_ = b.StartAnswers()
	_ = b.AResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})
	answer, err := b.Finish()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(answer)
	question := append([]byte(nil), answer...)
	question[2], question[7] = 1, 0 // asks, without an answer
	f.Add(question)
	f.Fuzz(func(t *testing.T, p []byte) {
		pol, err := newPolicy([]nat.Rule{{Host: "192.0.2.7"}}, func(netip.Addr) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		r := newResolver("/nonexistent", pol)
		if reply := r.answer("udp", p); reply != nil {
			var m dnsmessage.Message
			if err := m.Unpack(reply); err != nil || !m.Response || m.RCode != dnsmessage.RCodeNameError || len(m.Answers) > 0 {
				t.Errorf("a question about what is not allowed: %v, %+v", err, m)
			}
		}
		if !answers(p, 1, q) {
			return
		}
		r.pin("a.test", []uint16{80}, p)
		var m dnsmessage.Message
		if m.Unpack(p) != nil {
			return
		}
		own := make(map[netip.Addr]bool)
		for _, a := range m.Answers {
			switch b := a.Body.(type) {
			case *dnsmessage.AResource:
				own[netip.AddrFrom4(b.A)] = true
			case *dnsmessage.AAAAResource:
				own[netip.AddrFrom16(b.AAAA)] = true
			}
		}
		for a := range pol.pins {
			if !own[a] {
				t.Errorf("%v may be reached, and no answer has it", a)
			}
		}
	})
}

package loop

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

const secret = "s3cr3t"

// loaded is one of each event and effect, with a secret wherever one may travel.
func loaded() []any {
	m := core.Message{CallID: "c1", CSeq: 1, Header: []core.Field{{Name: "Authorization", Value: secret}}, Body: []byte(secret)}
	req := &core.Request{Method: core.INFO, URI: core.URI{Scheme: "sip", Host: "h"}, Message: m}
	resp := &core.Response{Status: 200, Method: core.INFO, Message: m}
	agent := tenant.Agent{ID: "1001", Password: secret, Credentials: []tenant.Credential{{Algorithm: "MD5", Hash: secret}}}
	return []any{
		core.RequestReceived{Request: req, Cancels: "t0"}, core.ResponseReceived{Response: resp}, core.TransactionFailed{},
		core.FlowClosed{}, core.MediaOpened{}, core.MediaRefused{}, core.MediaIdle{}, core.MediaResumed{}, core.PlaybackDone{},
		core.MediaClosed{}, core.Stored{}, core.Conflict{}, core.Fenced{}, core.Unknown{},
		core.Restored{Entries: []core.Entry{{Key: "k", Value: []byte(secret)}}}, core.Delivered{}, core.DeliveryFailed{}, core.Purged{},
		core.Commanded{Key: secret, Do: command.PutAgent{Agent: agent}}, core.DrainRequested{}, core.Woken{},
		core.SendRequest{Request: req}, core.Respond{Response: resp}, core.OpenMedia{}, core.SetMedia{}, core.CloseMedia{},
		core.Store{Ops: []core.Op{{Key: "a/1001", Value: []byte(secret)}, {Key: "gone"}}}, core.Deliver{CDR: &core.CDR{ID: "int_1"}}, core.Purge{},
		core.Reply{Value: agent}, core.Publish{Data: secret}, core.Log{Text: "x", Attrs: []any{"k", secret}}, core.Drained{},
	}
}

func TestWordsKnowEveryTypeAndTellNoSecret(t *testing.T) {
	var have []string
	for _, what := range loaded() {
		have = append(have, reflect.TypeOf(what).Name())
		kept, size := weigh(what)
		line := words(kept)
		if size <= 0 || strings.Contains(fmt.Sprintf("%+v", kept), "PutAgent{") {
			t.Errorf("%T keeps %d bytes, %+v", what, size, kept)
		}
		if strings.HasPrefix(line, "?") {
			t.Errorf("no words for %T", what)
		}
		if strings.Contains(line, secret) || strings.ContainsAny(line, "\r\n") {
			t.Errorf("%T: %q", what, line)
		}
	}
	for _, name := range vocabulary(t) {
		if !slices.Contains(have, name) {
			t.Errorf("core.%s is not in this test", name)
		}
	}
}

// vocabulary returns the names of all types with an isEvent or isEffect method.
func vocabulary(t *testing.T) (names []string) {
	for _, file := range []string{"../../core/event.go", "../../core/effect.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv != nil && strings.HasPrefix(f.Name.Name, "is") {
				names = append(names, f.Recv.List[0].Type.(*ast.Ident).Name)
			}
		}
	}
	if len(names) < 30 {
		t.Fatalf("found only %v", names)
	}
	return names
}

func TestALineStaysALine(t *testing.T) {
	r := &core.Request{Method: core.BYE, Message: core.Message{CallID: strings.Repeat("x\n", 5000)}}
	if line := words(core.RequestReceived{Request: r}); len(line) > 600 || strings.Contains(line, "\n") {
		t.Errorf("a line of %d bytes", len(line))
	}
}

// A peer chooses how large its messages are, and the recorder keeps thousands: its memory
// is bounded in bytes, the latest stay.
func TestFlightIsBoundedInBytes(t *testing.T) {
	f := newFlight(4096)
	for i := range 2000 {
		r := &core.Request{Method: core.INFO, Message: core.Message{CSeq: uint32(i), Body: make([]byte, 60_000)}}
		f.event(core.Time(i), core.RequestReceived{Request: r})
		f.effects(core.Time(i), []core.Effect{core.CloseMedia{}})
	}
	if f.bytes > maxFlight || f.kept < 2*maxFlight/70_000 {
		t.Errorf("%d bytes in %d records", f.bytes, f.kept)
	}
	held := 0
	for _, r := range f.ring {
		if ev, ok := r.what.(core.RequestReceived); ok {
			held += len(ev.Request.Body)
		}
	}
	if held > maxFlight {
		t.Errorf("%d bytes are held", held)
	}
	var b strings.Builder
	if _, err := f.WriteTo(&b); err != nil || !strings.Contains(b.String(), "cseq 1999") || strings.Contains(b.String(), "cseq 3\n") {
		t.Errorf("%v, %d bytes written", err, b.Len())
	}
	for range 4096 {
		f.event(1, core.Stored{})
	}
	if f.kept != 4096 || f.bytes != 4096*128 {
		t.Errorf("%d bytes in %d small records", f.bytes, f.kept)
	}
}

func TestFlightKeepsTheLast(t *testing.T) {
	f := newFlight(3)
	for i := range 5 {
		f.event(core.Time(i), core.Stored{Token: core.Token(i)})
	}
	f.effects(5, []core.Effect{core.Drained{}})
	var b strings.Builder
	n, err := f.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d: %v", n, b.Len(), err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	var tails []string
	for _, line := range lines[1:] {
		_, tail, _ := strings.Cut(line, " ")
		tails = append(tails, tail)
	}
	if want := "[> store 3 committed > store 4 committed < drained]"; fmt.Sprint(tails) != want {
		t.Errorf("kept %v, want %s", tails, want)
	}
	if !strings.Contains(lines[0], "last 3 of 6") {
		t.Error(lines[0])
	}
}

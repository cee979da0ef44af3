package etcd

import "encoding/binary"

// trace is a hash of all that was asked, done and answered, in order. It is quick, not
// strong: it tells whether two runs were the same.
type trace uint64

func (t *trace) number(n uint64) {
	h := (uint64(*t) ^ n) * 0x9e3779b97f4a7c15
	*t = trace(h ^ h>>29)
}

func (t *trace) text(s string) {
	t.number(uint64(len(s)))
	var b [8]byte
	for len(s) >= 8 {
		copy(b[:], s)
		t.number(binary.LittleEndian.Uint64(b[:]))
		s = s[8:]
	}
	if s != "" {
		b = [8]byte{}
		copy(b[:], s)
		t.number(binary.LittleEndian.Uint64(b[:]))
	}
}

func (t *trace) flag(is bool) {
	if is {
		t.number(1)
	} else {
		t.number(0)
	}
}

func (t *trace) answer(a *Answer) {
	t.number(uint64(a.At))
	t.text(string(a.Client))
	t.number(uint64(a.ID))
	t.text(string(a.Err))
	t.number(uint64(a.Revision)<<8 | uint64(a.Member))
	switch r := a.Reply.(type) {
	case TxnReply:
		t.flag(r.Succeeded)
		t.number(uint64(len(r.Results)))
		for i := range r.Results {
			t.found(&r.Results[i].Range)
			t.number(uint64(r.Results[i].Deleted))
		}
	case RangeReply:
		t.found(&r)
	case LeaseReply:
		t.number(uint64(r.Lease))
	case WatchReply:
		t.flag(r.Created)
		t.flag(r.Ended)
		for i := range r.Events {
			t.text(r.Events[i].KV.Key)
			t.number(uint64(r.Events[i].KV.Mod))
		}
		t.number(uint64(r.Compacted))
	}
}

func (t *trace) found(r *RangeReply) {
	t.number(uint64(r.Count))
	for i := range r.KVs {
		t.text(r.KVs[i].Key)
		t.number(uint64(r.KVs[i].Mod))
	}
}

// Package sipstack carries SIP between sockets and the core: bytes become core events,
// core effects become bytes.
//
// It stands on github.com/emiago/sipgo v1.7.2 and takes from it the message parser
// (sip.Parser: folded lines, odd spacing, header and body boundaries, which fault to name)
// and the durations of RFC 3261's timers. Four things it does itself, since the library's
// own can't keep what this package promises:
//
//   - State machines (RFC 3261 s.17, RFC 6026). The library's want a goroutine per response
//     and have channels and several timers of the runtime per transaction; an INVITE that
//     rang when it was cancelled they hold for ever. Here a transaction is one value, and its
//     timers are alarms in a few lines with one timer of the runtime for all (alarms.go).
//   - Dispatch. sip.TransactionLayer starts a goroutine per message before any limit is
//     looked at (transaction_layer.go:140), so a flood is unbounded and a re-INVITE may
//     overtake the ACK before it; and it answers a CANCEL with 200 and the INVITE with 487
//     on its own (transaction_layer.go:175), which is the core's decision. Here one reader
//     per socket looks the transaction up and runs its machine: arrival order is kept per
//     socket, and limits come first.
//   - Sockets. sip.TransportUDP remembers every source address for as long as it listens
//     (transport_udp.go, acceptedAddr): forged addresses fill the memory. It drops what
//     does not parse where RFC 4475 wants a 400, and refuses responses above 1300 bytes.
//     sip.TransportTCP has a limit per read, none per message: one byte a second holds a
//     connection for ever.
//   - Header fields that hold addresses. The library's types lose order, quoting and
//     repeated parameters; the core wants the text as it came.
//
// Choices that the RFC leaves open:
//
//   - 100 Trying is sent when the core has given no other response within 150 ms (s.17.2.1
//     allows 200), or the INVITE comes again before. Mostly there is one: that saves a packet
//     per call, and a forged INVITE brings one packet, not two. A node that dies at once
//     has said nothing, so the caller's next copy can find another.
//   - Beyond maxRefused unacknowledged refusals of INVITEs from one address, a refusal outside a
//     dialog is sent once and its transaction ends (s.8.2.7): repeated until Timer H it would
//     make a flood with forged sources a dozen times larger. A copy of the INVITE gets the same
//     refusal again: it must not ring a phone as a new call.
//   - When no more transactions fit, answered ones other than INVITE end before Timer J, the
//     oldest first: they wait for copies only.
//   - Alarms ring up to T1/16 late, so that what is due together is one wake-up; a short one
//     a quarter of its time.
//   - SendRequest.T1 shortens Timers A and E only. How long a peer may take to answer (Timers
//     B and F) has nothing to do with how soon a lost datagram is repeated: an INVITE that is
//     given up after 64 * 50 ms would end calls whose phones are slow.
//   - A node passes requests between a phone's connection and the other nodes of its cluster,
//     without state (pass.go). It is no proxy for anybody else.
//   - Connections are opened from the address that is listened on, where there is one.
//   - A client transaction other than INVITE ends with its final response instead of 5 s
//     later (Timer K; in the library 32 s): K only absorbs repeated responses, and those
//     find no transaction here and are dropped.
//   - A repeated 3xx-6xx to an INVITE is acknowledged here at once. The library would sleep
//     for T2 with the transaction locked (transaction_client_tx_fsm.go, actAckResend).
//   - A 2xx to INVITE is always handed to the core, with or without a transaction, when its
//     Via is ours: it may be a fork (RFC 3261 s.13.2.2.4), or the answer to a request from
//     before a restart.
//   - A request that would make a datagram above 1300 bytes goes over TCP; when nobody
//     listens there, over UDP after all (RFC 3261 s.18.1.1).
//   - A server transaction is matched by branch, sent-by, method (s.17.2.3) and also by the
//     source's address, so that a guessed branch does not let a stranger cancel a call.
//     Its TxnID is a hash of these: a retransmission after a restart has the same one.
package sipstack

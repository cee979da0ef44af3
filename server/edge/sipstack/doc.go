// Package sipstack carries SIP between sockets and the core: bytes become core events,
// core effects become bytes.
//
// It stands on github.com/emiago/sipgo v1.7.2 and takes three things from it: the message
// parser (sip.Parser: start line, folded lines, header and body boundaries), the message
// types, and the state machines of RFC 3261 s.17 and RFC 6026 with their timers
// (sip.ServerTx, sip.ClientTx). Three things it does itself, since the library's own can't
// keep what this package promises:
//
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
//     connection for ever. A sip.Connection is an interface, so the machines don't notice.
//   - Header fields that hold addresses. The library's types lose order, quoting and
//     repeated parameters; the core wants the text as it came.
//
// Choices that the RFC leaves open:
//
//   - 100 Trying is sent at once, before the core sees the INVITE: the peer stops repeating
//     however long the core's store takes, and no later response can overtake it.
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
